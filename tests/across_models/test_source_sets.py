"""Dictionaries as sets of sources: against the measures of sources, of equal size, and refusals."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itda_lightning import InputError, Sources, jaccard
from itda_lightning.across_models.source_sets import SourceSet, Universe, equal_atoms
from itda_lightning.measures import jaccard_over_chance, weighted_jaccard

SPANS = torch.tensor([[document, start, start + 1] for document in range(3) for start in range(6)])
chosen = st.lists(st.integers(0, len(SPANS) - 1), unique=True, min_size=1)


def table_of(index: list[int]) -> torch.Tensor:
    rows = [[int(SPANS[i, 0]), 0, 0, 7, int(SPANS[i, 1]), int(SPANS[i, 2])] for i in index]
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 6)


@given(chosen, chosen, st.integers(0, 1000))
def test_indices_are_those_of_the_measures_of_sources(a: list[int], b: list[int], seed: int) -> None:
    universe = Universe(SPANS, "tokens", resamples=4)
    one, two = (Sources(table_of(index), "d") for index in (a, b))
    members = universe.members([one.table, two.table])
    assert [part.tolist() for part in members] == [a, b]
    overlap = universe.compared(*(SourceSet.plain(index) for index in members))
    expected = jaccard_over_chance(one, two, len(SPANS))
    assert overlap.jaccard == pytest.approx(jaccard(one, two), rel=1e-12)
    assert (overlap.expected, overlap.excess) == pytest.approx((expected.expected, expected.excess), rel=1e-9)
    use = [
        torch.rand(len(index), dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.1
        for index in (a, b)
    ]
    shared, either = universe.overlap(*map(SourceSet.weighted, members, use))
    shares = [weights / weights.sum() for weights in use]
    assert float(shared.sum() / either.sum()) == pytest.approx(weighted_jaccard(one, two, *shares), rel=1e-9)


def test_aligned_by_characters_only_ends_count() -> None:
    ends = torch.tensor([[0, 3, 3], [1, 4, 4]])
    universe = Universe(ends, "characters", resamples=2)
    longer, shorter = torch.tensor([[0, 0, 0, 1, 0, 3]]), torch.tensor([[0, 5, 5, 2, 2, 3], [1, 0, 0, 2, 3, 5]])
    assert [part.tolist() for part in universe.members([longer, shorter])] == [[0], [0, -1]]


def test_a_source_that_comes_twice_has_the_sum_of_its_uses() -> None:
    weighted = SourceSet.weighted(torch.tensor([4, 2, 4]), torch.tensor([1.0, 2.0, 5.0]))
    assert weighted.members.tolist() == [2, 4]
    assert weighted.use.tolist() == [0.25, 0.75]
    assert SourceSet.weighted(torch.tensor([1]), torch.zeros(1)).use.tolist() == [0.0]


@given(st.lists(st.lists(st.integers(-1, 15), min_size=40, max_size=60), min_size=1, max_size=4))
def test_all_are_cropped_to_the_smallest_and_keep_their_first_atoms(drawn: list[list[int]]) -> None:
    members = {f"dictionary {place}": torch.tensor([*range(16), *index]) for place, index in enumerate(drawn)}
    members["smallest"] = torch.tensor([-1, 5, 5, *range(12)])
    kept = equal_atoms(members)
    assert {len(atoms) for atoms in kept.values()} == {12}
    assert kept["smallest"].tolist() == [1, 3, 4, 5, 6, 7, *range(9, 15)]
    assert kept["dictionary 0"].tolist() == list(range(12))


def test_too_few_atoms_are_refused() -> None:
    members = {"the dictionary of A at x": torch.arange(20), "the dictionary of B at y": torch.tensor([3, 3, -1, 4])}
    with pytest.raises(
        InputError, match="the dictionary of B at y has 2 atoms whose sources all fits have read, of 4: too"
    ):
        equal_atoms(members)
