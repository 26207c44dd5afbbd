"""Ratios of sums over documents and their bootstrap errors, against plain numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itda_lightning.comparison import bootstrap
from itda_lightning.comparison.bootstrap import DocumentSums
from itda_lightning.errors import InputError


def made(document: torch.Tensor, **values: torch.Tensor) -> DocumentSums:
    sums = DocumentSums(document)
    sums.update(document, tokens=torch.ones(len(document)), **values)
    return sums


def correlated(documents: int, seed: int, least: int = 5, most: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Documents of different lengths whose tokens resemble each other, in the order of a corpus."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(least, most + 1, (documents,), generator=generator)
    document = torch.arange(documents).repeat_interleave(sizes)
    own = torch.randn(documents, generator=generator)[document]
    return document, 3 + own + 0.3 * torch.randn(len(document), generator=generator)


def brute_force(document: torch.Tensor, x: torch.Tensor, resamples: int = 4000) -> float:
    """The error of the mean over tokens: whole documents drawn with replacement, tokens put together again."""
    chance = np.random.default_rng(1)
    groups = [x[document == number].double().numpy() for number in document.unique().tolist()]
    means = []
    for _ in range(resamples):
        drawn = [groups[index] for index in chance.integers(len(groups), size=len(groups))]
        means.append(np.concatenate(drawn).mean())
    return float(np.std(means, ddof=1))


def test_a_ratio_of_sums_by_hand():
    sums = DocumentSums(torch.tensor([7, 3, 7]))
    sums.update(torch.tensor([7, 3]), a=torch.tensor([1.0, 2.0]), b=torch.tensor([10.0, 20.0]))
    sums.update(torch.tensor([7]), a=torch.tensor([4.0]), b=torch.tensor([5.0]))
    assert sums.documents.documents.tolist() == [3, 7]
    assert sums.sums["a"].tolist() == [2.0, 5.0]
    assert sums.estimate(torch.div, "a", "b").value == pytest.approx(7 / 35)
    # A quarter of the resamples are one document twice, a quarter the other, the rest both.
    ratios = np.repeat([2 / 20, 5 / 15, 7 / 35, 7 / 35], 250)
    assert sums.estimate(torch.div, "a", "b").error == pytest.approx(ratios.std(ddof=1), rel=0.05)


def test_the_error_is_that_of_a_brute_force_bootstrap():
    document, x = correlated(30, seed=0)
    estimate = made(document, x=x).estimate(torch.div, "x", "tokens")
    assert estimate.value == pytest.approx(float(x.double().mean()), rel=1e-12)
    assert estimate.error == pytest.approx(brute_force(document, x), rel=0.08)


def test_the_error_is_that_of_a_mean_of_clusters():
    document, x = correlated(200, seed=1, least=10, most=10)
    of_documents = x.double().view(200, 10).mean(1)
    error = made(document, x=x).estimate(torch.div, "x", "tokens").error
    assert error == pytest.approx(float(of_documents.std()) / 200**0.5, rel=0.08)
    independent = float(x.double().std()) / 2000**0.5
    assert error > 2 * independent


def test_saying_everything_twice_makes_nothing_more_certain():
    document, x = correlated(12, seed=2)
    once, twice = made(document, x=x), made(document.repeat(2), x=x.repeat(2))
    one, other = (sums.estimate(torch.div, "x", "tokens") for sums in (once, twice))
    assert other.value == pytest.approx(one.value, rel=1e-12)
    assert other.error == pytest.approx(one.error, rel=1e-9)


def test_errors_of_two_entries_are_of_the_same_resamples():
    document, x = correlated(10, seed=4)
    sums = made(document, x=x, shifted=2 * x + 5 * torch.ones(len(x)))
    plain, shifted = (sums.estimate(torch.div, name, "tokens") for name in ("x", "shifted"))
    assert shifted.error == pytest.approx(2 * plain.error, rel=1e-6)


def test_vectors_are_resampled_in_blocks_that_do_not_matter(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    document = torch.randint(6, (300,), generator=generator)
    x = torch.randn(300, 5, generator=generator) + document[:, None]
    sums = made(document, x=x, squares=x.square().sum(1))

    def variance(squares, x, tokens):
        return (squares - x.square().sum(-1) / tokens) / tokens

    whole = sums.estimate(variance, "squares", "x", "tokens")
    assert whole.value == pytest.approx(float((x.double() - x.double().mean(0)).square().sum() / 300), rel=1e-6)
    for numbers in (1, 50, 7 * 70):
        monkeypatch.setattr(bootstrap, "BLOCK_NUMBERS", numbers)
        cut = sums.estimate(variance, "squares", "x", "tokens")
        assert cut.value == whole.value
        assert cut.error == pytest.approx(whole.error, rel=1e-9)


@given(
    st.lists(st.tuples(st.sampled_from([0, 4, 11]), st.floats(-1e3, 1e3)), min_size=2, max_size=30),
    st.lists(st.integers(0, 30), max_size=4),
    st.randoms(use_true_random=False),
)
def test_batches_and_their_order_do_not_matter(tokens, cuts, chance):
    tokens = [*tokens, (0, 1.0), (4, 2.0)]
    document = torch.tensor([number for number, _ in tokens])
    x = torch.tensor([value for _, value in tokens], dtype=torch.float64)
    whole = made(document, x=x)
    shuffled = list(range(len(tokens)))
    chance.shuffle(shuffled)
    parts = torch.tensor(shuffled).tensor_split(sorted(cuts))
    cut = DocumentSums(document)
    for part in parts:
        cut.update(document[part], tokens=torch.ones(len(part)), x=x[part])
    one, other = (sums.estimate(torch.div, "x", "tokens") for sums in (whole, cut))
    assert other.value == pytest.approx(one.value, rel=1e-9, abs=1e-9)
    assert other.error == pytest.approx(one.error, rel=1e-6, abs=1e-9)


def test_sums_are_kept_in_double_precision():
    document = torch.tensor([0, 1]).repeat(50_000)
    sums = made(document, x=torch.full((100_000,), 0.1))
    assert sums.estimate(torch.div, "x", "tokens").value == pytest.approx(float(torch.tensor(0.1)), rel=1e-13)


@pytest.mark.parametrize(("document", "count"), [([4, 4, 4], 1), ([], 0)])
def test_one_document_has_no_standard_error(document, count):
    with pytest.raises(
        InputError, match=f"tokens are of {count} document, so no standard error can be computed: raise data.validation"
    ):
        DocumentSums(torch.tensor(document, dtype=torch.int64))
