"""The Jaccard index of sets of sources: plain, weighted by use, and over chance."""

import itertools

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from itda_lightning import InputError, Sources, jaccard
from itda_lightning.measures import expected_jaccard, jaccard_over_chance, weighted_jaccard

places = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), unique=True, min_size=1)


def make(chosen: list[tuple[int, int]], dataset: str = "a", token: int = 7) -> Sources:
    rows = [[document, 0, start, token, start, start + 1] for document, start in chosen]
    return Sources(torch.tensor(rows, dtype=torch.int64).reshape(-1, 6), dataset)


@given(places, places)
def test_it_is_the_share_of_common_sources(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> None:
    assert jaccard(make(a), make(b)) == len(set(a) & set(b)) / len(set(a) | set(b))
    assert jaccard(make(b), make(a)) == jaccard(make(a), make(b))
    assert jaccard(make(a), make(a)) == 1.0


def test_the_tokenizer_does_not_matter_but_the_characters_do() -> None:
    assert jaccard(make([(0, 1)], token=7), make([(0, 1)], token=9)) == 1.0
    assert jaccard(make([(0, 1)]), make([(1, 1)])) == 0.0


def test_different_datasets_have_no_common_sources_to_count() -> None:
    with pytest.raises(
        InputError, match=r"different datasets \(a and b\): fit both dictionaries on the same documents"
    ):
        jaccard(make([(0, 1)]), make([(0, 1)], dataset="b"))


def test_empty_sets_are_refused() -> None:
    unknown = Sources(torch.tensor([[-1, 0, 0, 7, 0, 1]]), "a")
    for a, b, message in ((make([]), make([]), "a"), (make([(0, 1)]), make([]), "b"), (unknown, make([(0, 1)]), "a")):
        with pytest.raises(
            InputError, match=f"{message} has no source with a known document .* empty set .* not defined"
        ):
            jaccard(a, b)


def ones(sources: Sources) -> torch.Tensor:
    return torch.ones(len(sources), dtype=torch.float64)


@given(places, places, st.integers(0, 10_000))
def test_weighted_by_use_it_is_ruzickas(a: list[tuple[int, int]], b: list[tuple[int, int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    u, v = rng.integers(1, 9, len(a)), rng.integers(1, 9, len(b))
    use_a, use_b = torch.from_numpy(u).float(), torch.from_numpy(v).float()
    value = weighted_jaccard(make(a), make(b), use_a, use_b)
    by_place = [[dict(zip(places, use, strict=True)).get(p, 0) for p in {*a, *b}] for places, use in ((a, u), (b, v))]
    distance = scipy.spatial.distance.braycurtis(*by_place)  # (1 - d) / (1 + d) is Ruzicka's similarity
    assert value == pytest.approx((1 - distance) / (1 + distance), rel=1e-12)
    assert weighted_jaccard(make(b), make(a), use_b, use_a) == value
    assert weighted_jaccard(make(a), make(a), use_a, use_a) == 1.0
    assert weighted_jaccard(make(a), make(b), ones(make(a)), ones(make(b))) == pytest.approx(jaccard(make(a), make(b)))


def test_a_source_that_comes_twice_has_the_sum_of_its_weights_and_one_without_document_none() -> None:
    a = Sources(torch.tensor([[0, 0, 1, 7, 1, 2], [0, 3, 9, 7, 1, 2], [-1, 0, 0, 7, 0, 1]]), "a")
    assert weighted_jaccard(a, make([(0, 1)]), torch.tensor([2.0, 1.0, 50.0]), torch.tensor([4.0])) == 0.75


def test_weights_must_be_weights() -> None:
    a = make([(0, 1), (0, 2)])
    with pytest.raises(InputError, match="use_b has 3 weights for 2 sources: give one per atom"):
        weighted_jaccard(a, a, ones(a), torch.ones(3))
    for bad in (-1.0, torch.nan, torch.inf):
        with pytest.raises(InputError, match="use_a has weights that are negative or not finite"):
            weighted_jaccard(a, a, torch.tensor([1.0, bad]), ones(a))
    with pytest.raises(InputError, match="no atom of b is used: measure use on more tokens"):
        weighted_jaccard(a, a, ones(a), torch.zeros(2))
    with pytest.raises(InputError, match="different datasets"):
        weighted_jaccard(a, make([(0, 1)], dataset="b"), ones(a), torch.ones(1))


@pytest.mark.parametrize(("n1", "n2", "universe"), [(1, 1, 1), (2, 3, 6), (4, 4, 6), (6, 2, 6), (1, 5, 6)])
def test_the_expected_index_is_the_mean_over_all_sets_of_the_sizes(n1: int, n2: int, universe: int) -> None:
    first = set(range(n1))
    values = [
        len(first & set(second)) / len(first | set(second)) for second in itertools.combinations(range(universe), n2)
    ]
    assert expected_jaccard(n1, n2, universe) == pytest.approx(np.mean(values), rel=1e-12)
    assert expected_jaccard(n2, n1, universe) == pytest.approx(expected_jaccard(n1, n2, universe), rel=1e-12)


@pytest.mark.parametrize(("n1", "n2", "universe"), [(4096, 4096, 198_354), (700, 3000, 5000), (65_536, 60_000, 10**7)])
def test_the_expected_index_of_real_sizes(n1: int, n2: int, universe: int) -> None:
    k = np.arange(max(0, n1 + n2 - universe), min(n1, n2) + 1)
    expected = (scipy.stats.hypergeom.pmf(k, universe, n1, n2) * k / (n1 + n2 - k)).sum()
    assert expected_jaccard(n1, n2, universe) == pytest.approx(expected, rel=1e-6)


def test_the_excess_over_chance() -> None:
    a, b = make([(0, 1), (0, 2)]), make([(0, 2), (0, 3), (1, 1)])
    result = jaccard_over_chance(a, b, universe=40)
    assert result.jaccard == jaccard(a, b) == 0.25
    assert result.expected == expected_jaccard(2, 3, 40)
    assert result.excess == result.jaccard - result.expected > 0.1
    assert jaccard_over_chance(a, a, universe=2).excess == 0.0


def test_a_universe_holds_all_sources() -> None:
    with pytest.raises(InputError, match="a universe of 2 cannot hold the 3 sources of both: count all tokens"):
        jaccard_over_chance(make([(0, 1), (0, 2)]), make([(0, 3)]), universe=2)
    for sizes in ((0, 2), (2, 0), (2, 11), (-1, 3)):
        with pytest.raises(InputError, match="sizes must be from 1 to the universe's 10, got"):
            expected_jaccard(*sizes, universe=10)
