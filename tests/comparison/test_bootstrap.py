"""Documents dealt into groups: all are dealt, sums are kept, and errors are those of means where these are known."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itda_lightning import InputError
from itda_lightning.comparison.bootstrap import DocumentGroups, standard_error


@given(st.lists(st.integers(0, 40), min_size=2).filter(lambda drawn: len(set(drawn)) > 1), st.integers(2, 8))
def test_groups_are_as_equal_as_can_be_and_hold_whole_documents(documents: list[int], wanted: int) -> None:
    tokens = torch.tensor(documents)
    groups = DocumentGroups(tokens, resamples=3, groups=wanted)
    assert groups.n_groups == min(wanted, len(set(documents)))
    of_document = groups.of(groups.documents)
    counts = of_document.bincount(minlength=groups.n_groups)
    assert int(counts.max() - counts.min()) <= 1
    assert torch.equal(groups.of(tokens), of_document[torch.searchsorted(groups.documents, tokens)])
    assert groups.times.shape == (3, groups.n_groups)
    assert groups.times.sum(1).tolist() == [groups.n_groups] * 3
    values = torch.arange(len(documents)).double()
    assert float(groups.sums(tokens, values).sum()) == float(values.sum())


def test_a_ratio_of_sums_and_its_resamples_by_hand() -> None:
    documents = torch.tensor([4, 4, 9, 2])
    groups = DocumentGroups(documents, resamples=5)
    above, below = groups.sums(documents, torch.tensor([1.0, 2.0, 5.0, 0.0])), groups.sums(documents, torch.ones(4))
    value, resampled = groups.ratios(above, below)
    assert float(value) == 2.0
    for times, found in zip(groups.times.tolist(), resampled.tolist(), strict=True):
        assert found == pytest.approx(
            sum(t * a for t, a in zip(times, above.tolist(), strict=True))
            / sum(t * b for t, b in zip(times, below.tolist(), strict=True))
        )


def test_the_error_of_a_mean_is_near_the_one_known() -> None:
    documents, values = torch.arange(400), torch.randn(400, generator=torch.Generator().manual_seed(0))
    groups = DocumentGroups(documents, resamples=2000, groups=200)
    _, resampled = groups.ratios(groups.sums(documents, values), groups.sums(documents, torch.ones(400)))
    assert float(standard_error(resampled)) == pytest.approx(float(values.std()) / 20, rel=0.1)


def test_no_resamples_give_no_error_and_one_document_none_either() -> None:
    assert DocumentGroups(torch.tensor([1, 2]), resamples=0).times.shape == (0, 1)
    assert torch.isnan(standard_error(torch.zeros(0, 3))).all()
    assert torch.isnan(standard_error(torch.zeros(1, 3))).all()
    assert float(standard_error(torch.tensor([1.0, 3.0]))) == pytest.approx(2**0.5)  # two are enough
    assert DocumentGroups(torch.tensor([7, 7]), resamples=0).n_groups == 1
    with pytest.raises(
        InputError, match=r"are of 1 document, so no standard error can be computed: raise data\.validation"
    ):
        DocumentGroups(torch.tensor([7, 7]), resamples=2)
