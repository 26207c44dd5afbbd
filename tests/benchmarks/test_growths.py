"""Growth in windows: the oddest, or the densest, of what is badly explained."""

import torch

from benchmarks.layer_matching.corpus import LENGTH, documents_in, text_of
from benchmarks.layer_matching.train import BATCH, Batches
from benchmarks.synthetic.growths import densest, grow_in_windows


def two_kinds() -> torch.Tensor:
    """Return 320 activations: a crowd around one direction, and single ones of far larger unexplained shares."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(320, 16, generator=generator)
    x[::2] = torch.eye(16)[3] * 5 + 0.1 * x[::2]
    return x


def test_the_densest_come_first_and_one_of_a_kind() -> None:
    x = two_kinds()[:40]
    first, *others = densest(x, 40).tolist()
    assert first % 2 == 0, "one of the crowd"
    assert all(place % 2 for place in others[:12]), "then those unlike it"
    assert sorted([first, *others]) == list(range(40)), "and then the rest"


def test_what_an_atom_explains_is_not_a_failure_again() -> None:
    x = two_kinds()
    chosen = grow_in_windows(x, 32, 2, "omp", nonnegative=False, choice="typical")
    assert len(chosen.unique()) == 32
    crowd = torch.nn.functional.normalize(x[chosen], dim=1)[:, 3] > 0.9
    assert 1 <= crowd.sum() <= 8


def test_the_oddest_are_the_worst_explained() -> None:
    x = two_kinds()
    chosen = grow_in_windows(x, 32, 2, "omp", nonnegative=False, choice="oddest")
    crowd = torch.nn.functional.normalize(x[chosen], dim=1)[:, 3] > 0.9
    assert crowd[4:].sum() <= 1


def test_pruned_residuals_choose_others() -> None:
    x = two_kinds()
    plain, pruned = (grow_in_windows(x, 32, 4, "omp", False, "oddest", gain) for gain in (0.0, 0.3))
    assert not torch.equal(plain, pruned)


def test_a_corpus_is_cut_at_lines_and_nothing_is_lost(tmp_path) -> None:
    text = "".join(f"line {i} of a dictionary\n" for i in range(2000))
    documents = list(documents_in(text))
    assert "".join(documents) == text
    assert max(map(len, documents)) < 2 * LENGTH + 100
    page = tmp_path / "a.html"
    page.write_text("<head><style>x</style></head><p>One &amp; two</p><script>no</script><p>three</p>")
    assert text_of(page) == "One & two\n\nthree"


def test_a_training_goes_on_with_the_batch_after_the_last() -> None:
    class At:
        global_step = 0

    rows, training = torch.arange(5 * BATCH)[:, None], At()
    everything = iter(Batches(rows, 0, training))
    seen = [next(everything) for _ in range(12)]
    assert torch.cat(seen[:5]).sort(0).values.equal(rows), "each row once per epoch"
    training.global_step = 7
    assert torch.equal(next(iter(Batches(rows, 0, training))), seen[7])
