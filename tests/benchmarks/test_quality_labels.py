"""The measures of `benchmarks/quality/labels.py`, by hand and against loops that say what they are."""

from itertools import permutations

import pytest
import torch
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig
from torch.nn.functional import cosine_similarity

from benchmarks.quality import labels as script
from benchmarks.results import Study, describe
from itda_lightning.comparison.latents import LatentUsageMeter
from itda_lightning.errors import InputError
from itda_lightning.evaluation.data_of import data_for
from itda_lightning.evaluation.entries import Entry, load_entry
from tests.runs import CONTEXT, HOOK, K


def draw_contexts(m: int, seed: int) -> torch.Tensor:
    """Of a few token ids, so that they are often alike; some begin late."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, 6, (m, 5), generator=generator)
    missing = torch.randint(0, 5, (m, 1), generator=generator) * torch.randint(0, 2, (m, 1), generator=generator)
    return drawn.where(torch.arange(5) >= missing, -1)


def draw_coefficients(n: int, m: int, seed: int) -> torch.Tensor:
    """With many zeros and many ties, of both signs."""
    generator = torch.Generator().manual_seed(seed)
    coefficients = torch.randint(-3, 4, (n, m), generator=generator).double()
    coefficients *= torch.rand(n, m, generator=generator) < 0.5
    coefficients[:, 0] = 1.0
    return coefficients


def test_a_context_ends_with_its_token_and_begins_after_bos():
    tokens = torch.tensor([[0, 1, 2, 3, 4, 5, 6], [0, 11, 12, 13, 14, 15, 16]])
    found = script.contexts(tokens, torch.tensor([0, 1, 1]), torch.tensor([6, 1, 3]))
    assert found.tolist() == [[2, 3, 4, 5, 6], [-1, -1, -1, -1, 11], [-1, -1, 11, 12, 13]]


def test_alike_by_hand():
    labels = torch.tensor([[1, 2, 3, 4, 5], [-1, -1, -1, -1, 5], [7, 7, 7, 7, 5]])
    used = torch.tensor([[9, 9, 9, 4, 5], [-1, -1, -1, -1, 5], [5, 4, 3, 2, 1]])
    assert script.same_token(labels, used).tolist() == [[True, True, False]] * 3
    assert script.same_last_two(labels, used).tolist() == [[True, False, False], [False] * 3, [False] * 3]
    expected = torch.tensor([[2 / 6, 1 / 5, 1], [1 / 3, 1, 1 / 5], [1 / 4, 1 / 2, 1 / 6]], dtype=torch.float64)
    torch.testing.assert_close(script.jaccard(labels, used), expected)


def test_alike_against_loops():
    labels, used = draw_contexts(20, 0), draw_contexts(40, 1)
    found = script.same_token(labels, used), script.same_last_two(labels, used), script.jaccard(labels, used)
    for i, label in enumerate(labels.tolist()):
        for j, context in enumerate(used.tolist()):
            a, b = set(label) - {-1}, set(context) - {-1}
            assert bool(found[0][i, j]) == (label[-1] == context[-1])
            assert bool(found[1][i, j]) == (label[-2:] == context[-2:] and label[-2] != -1)
            assert float(found[2][i, j]) == pytest.approx(len(a & b) / len(a | b))


def test_similarity_is_of_the_known_tokens_and_above_that_of_random_ones():
    embeddings = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    labels, used = draw_contexts(7, 0), draw_contexts(30, 1)
    found = script.similarity_above_random(labels, used, embeddings)

    def bag(context: torch.Tensor) -> torch.Tensor:
        return embeddings[context[context >= 0]].mean(0)

    cosines = torch.tensor([[float(cosine_similarity(bag(a), bag(b), dim=0)) for b in used] for a in labels])
    torch.testing.assert_close(found.float(), cosines - cosines.mean(1, keepdim=True), atol=1e-5, rtol=1e-4)


def test_top_weights_take_the_largest_by_size_the_earliest_of_equal_ones_and_nothing_unused():
    coefficients = torch.tensor([[0.0, -3.0, 1.0, 2.0, -1.0], [0.0, 0.0, 0.0, -0.5, 0.0]], dtype=torch.float64)
    assert script.top_weights(coefficients, 2).tolist() == [[0, 0.5, 0, 0.5, 0], [0, 0, 0, 1, 0]]
    assert script.top_weights(coefficients, 3)[0].tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3, 0])
    assert script.top_weights(coefficients, 9)[0].tolist() == [0, 0.25, 0.25, 0.25, 0.25]


def test_auroc_by_hand():
    coefficients = torch.tensor([[0.0, -3.0, 1.0, 0.0]], dtype=torch.float64)
    positive = torch.tensor([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()
    found = script.auroc(coefficients, positive)[0]
    # The third: 1 beats 0 and loses to 3, 0 ties with 0 and loses to 3.
    assert found[:3].tolist() == pytest.approx([1, 0.5 / 3, (1 + 0.5) / 4])
    assert bool(found[3:].isnan().all())


def test_auroc_against_pairs_with_many_ties():
    coefficients = draw_coefficients(6, 50, 0)
    positive = torch.rand(5, 50, generator=torch.Generator().manual_seed(1)) < 0.3
    found = script.auroc(coefficients, positive)
    for i, row in enumerate(coefficients.abs()):
        for j, chosen in enumerate(positive):
            pairs = row[chosen][:, None] - row[~chosen]
            assert float(found[i, j]) == pytest.approx(float(((pairs > 0) + 0.5 * (pairs == 0)).mean()))


def test_chance_is_the_mean_over_the_permutations_that_leave_no_label_in_its_place():
    scores = torch.rand(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def by_permutations(scores: torch.Tensor) -> tuple[float, float]:
        n = len(scores)
        moved = [p for p in permutations(range(n)) if all(i != j for i, j in enumerate(p))]
        chance = sum(float(scores[torch.arange(n), list(p)].mean()) for p in moved) / len(moved)
        return float(scores.diagonal().mean()), chance

    found = script.with_chance(scores)
    mean, chance = by_permutations(scores)
    assert (found["mean"], found["chance"], found["above_chance"]) == pytest.approx((mean, chance, mean - chance))
    rest = [torch.arange(5)[torch.arange(5) != out] for out in range(5)]
    left = torch.tensor([by_permutations(scores[kept][:, kept]) for kept in rest], dtype=torch.float64)
    left = torch.cat([left, left[:, :1] - left[:, 1:]], 1)
    errors = ((left - left.mean(0)).square().sum(0) * 4 / 5).sqrt().tolist()
    assert [found[f"{name}_error"] for name in ("mean", "chance", "above_chance")] == pytest.approx(errors)
    assert found["mean_error"] == pytest.approx(float(scores.diagonal().std()) / 5**0.5)
    with pytest.raises(InputError, match="at least three"):
        script.with_chance(scores[:2, :2])


def test_true_labels_score_full_marks_and_chance_does_not():
    """Four atoms, each used by the occurrences of its own token only, in its own context."""
    labels = torch.arange(20).view(4, 5)
    used = labels.repeat(3, 1)
    coefficients = torch.eye(4, dtype=torch.float64).repeat(1, 3) * torch.tensor([1.0, -1.0, 2.0, 3.0])[:, None]
    found = script.measure(coefficients, labels, used, torch.eye(20), 50)
    measures = found["measures"]
    assert [measures[name]["mean"] for name in ("same_token", "same_last_two", "jaccard", "auroc")] == [1.0] * 4
    assert [measures[name]["chance"] for name in ("same_token", "same_last_two", "jaccard")] == [0.0] * 3
    assert measures["auroc"]["chance"] == pytest.approx((0.5 * 6) / 9)
    assert measures["similarity"]["mean"] == pytest.approx(0.75)
    assert measures["similarity"]["chance"] == pytest.approx(-0.25)
    assert (found["positive"], found["same_token_at_most"], found["label_not_held_out"]) == (0.75, 1.0, 0)


def test_measures_against_loops():
    labels, used = draw_contexts(8, 2), draw_contexts(60, 3)
    labels[5, -1] = 17  # a token that occurs nowhere
    coefficients, embeddings = (
        draw_coefficients(8, 60, 4),
        torch.randn(18, 8, generator=torch.Generator().manual_seed(5)),
    )
    found = script.measure(coefficients, labels, used, embeddings, 10)
    above = script.similarity_above_random(labels, used, embeddings)
    shares, similar, positive, most = [], [], [], []
    for row, label, cosines in zip(coefficients, labels, above, strict=True):
        order = sorted(range(60), key=lambda token: (-abs(float(row[token])), token))
        top = [token for token in order[:10] if row[token] != 0]
        shares.append(sum(int(used[token, -1] == label[-1]) for token in top) / len(top))
        positive.append(sum(float(row[token]) > 0 for token in top) / len(top))
        most.append(min(int((used[:, -1] == label[-1]).sum()), len(top)) / len(top))
        similar.append(float((row.abs() * cosines).sum() / row.abs().sum()))
    measures = found["measures"]
    assert measures["same_token"]["mean"] == pytest.approx(sum(shares) / 8)
    assert measures["similarity"]["mean"] == pytest.approx(sum(similar) / 8, abs=1e-6)
    assert found["positive"] == pytest.approx(sum(positive) / 8)
    assert found["same_token_at_most"] == pytest.approx(sum(most) / 8)
    assert (found["label_not_held_out"], measures["auroc"]["n"], measures["same_token"]["n"]) == (1, 7, 8)


@pytest.fixture(scope="module")
def sae() -> Entry:
    """A random SAE whose latent 0 nothing uses."""
    torch.manual_seed(0)
    sae = TopKSAE(TopKSAEConfig(d_in=32, d_sae=24, k=4))
    sae.b_enc.data[0] = -1e6
    return Entry("sae", sae, None)


def test_a_study_of_a_run_and_an_sae(sae, tiny_run):
    """Every label is a training token: the source, or the top example among the first training rows."""
    itda = load_entry(str(tiny_run), HOOK)._replace(name="itda")
    data = data_for(itda.dictionary, None, HOOK, device="cpu")
    rows = script.study([itda, sae], data, HOOK, atoms=1000, top=5, label_tokens=40 * CONTEXT, seed=0)
    assert [(row["entry"], row["label"]) for row in rows] == [
        ("itda", "source"),
        ("itda", "top example"),
        ("sae", "top example"),
    ]
    assert rows[2]["drawn"] == 24
    assert rows[2]["unlabelled"] >= 1
    assert rows[2]["unused"] >= 1
    assert rows[0]["k"] == K
    assert all(0 <= row["measures"]["auroc"]["mean"] <= 1 for row in rows)
    result = {**describe(Study("labels", "m", None, HOOK, "d", 9, 0)), "heldout": 9, "top": 5, "cpu_seconds": 1.0}
    table = script.as_markdown(result | {"rows": rows}).splitlines()
    assert {line.count("|") for line in table if line.startswith("| itda") or "---" in line} == {9, 12}


def test_labels_are_those_of_the_latents_drawn(sae, tiny_run):
    itda = load_entry(str(tiny_run), HOOK)
    data = data_for(itda.dictionary, None, HOOK, device="cpu")
    rows, latents = data.rows("train"), torch.tensor([5, 0, 3])
    refined = load_entry(str(tiny_run), HOOK)
    refined.dictionary.refine(refined.dictionary.atoms.flip(1))
    assert torch.equal(script.draw(itda, 7, 0), script.draw(refined, 7, 0)), "the same atoms before and after"
    assert not torch.equal(script.draw(itda, 7, 0), script.draw(itda, 7, 1))
    places = script.source_places(itda, latents, rows)
    assert torch.equal(places, script.source_places(refined, latents, rows)), "refinement keeps the sources"
    assert torch.equal(rows.source_table(*places.T), itda.dictionary.source_table[latents])
    with pytest.raises(InputError, match="not among these training rows"):
        script.source_places(itda, latents, data.rows("heldout"))
    assert script.source_places(sae, latents, rows) is None

    batch = next(iter(data.train_dataloader()))
    x = batch.activations[HOOK]
    for entry in (itda, sae):
        meter = LatentUsageMeter(entry, latents, CONTEXT, 1, 2)
        meter.update(x, batch.table)
        found, coefficients = script.top_places(meter), script.coefficients_of(entry, latents, x)
        dense = (
            entry.dictionary.encode(x).to_dense(itda.dictionary.n_atoms) if entry.dictionary else entry.sae.encode(x)
        )
        torch.testing.assert_close(coefficients, dense.detach().T[latents].double(), atol=1e-5, rtol=1e-4)
        for place, row in zip(found.tolist(), coefficients.abs(), strict=True):
            assert place == (batch.table[row.argmax(), 1:3].tolist() if row.any() else [-1, -1])
    assert found[1].tolist() == [-1, -1]
