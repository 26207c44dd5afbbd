"""Mutual nearest neighbours: against scikit-learn's neighbours, in any batches, with ties, and bad input."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from itda_lightning import InputError
from itda_lightning.measures import MutualNeighbours, mutual_neighbours
from itda_lightning.measures.neighbours import Neighbours, shared_neighbours
from tests.measures.representations import draw, related


def found_by_scikit_learn(reference: torch.Tensor, queries: torch.Tensor, k: int) -> list[set[int]]:
    model = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(reference.numpy())
    return [set(row) for row in model.kneighbors(queries.numpy(), return_distance=False)]


@given(seed=st.integers(0, 10_000), k=st.integers(1, 20))
def test_all_tokens_among_each_other(seed: int, k: int) -> None:
    x, y = related(seed, 50, 4, 6)
    left, right = (found_by_scikit_learn(z, z, k + 1) for z in (x, y))
    expected = np.mean([len((a & b) - {i}) / k for i, (a, b) in enumerate(zip(left, right, strict=True))])
    assert mutual_neighbours(x, y, k) == pytest.approx(expected, rel=1e-12)


def test_queries_that_are_not_among_the_reference_tokens() -> None:
    x, y = related(0, 300, 4, 6)
    running = MutualNeighbours(x[:20], y[:20], k=7)
    for start in range(20, 300, 90):
        running.update(x[start : start + 90], y[start : start + 90])
    left, right = (found_by_scikit_learn(z[20:], z[:20], 7) for z in (x, y))
    expected = [len(a & b) / 7 for a, b in zip(left, right, strict=True)]
    assert running.n == 280
    assert shared_neighbours(*running._sides).tolist() == pytest.approx(expected)
    assert running.compute() == pytest.approx(np.mean(expected))


def test_a_sample_of_queries_has_the_shares_of_all() -> None:
    x, y = related(1, 100, 4, 6)
    every = MutualNeighbours(x, y, k=5, places=torch.arange(100))
    every.update(x, y)
    queries = torch.tensor([90, 3, 55])
    assert mutual_neighbours(x, y, 5, queries) == pytest.approx(float(shared_neighbours(*every._sides)[queries].mean()))


def test_more_queries_and_tokens_than_fit_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = related(2, 200, 4, 6)
    expected = mutual_neighbours(x, y, 5)
    monkeypatch.setattr("itda_lightning.measures.neighbours.QUERIES_AT_A_TIME", 7)
    running = MutualNeighbours(x, y, k=5, places=torch.arange(200))
    for batch in zip(x.split(33), y.split(33), strict=True):
        running.update(*batch)
    assert running.compute() == expected


def test_of_equally_near_tokens_the_earlier_is_nearer_in_any_batches() -> None:
    # 10 tokens, each 12 times over: every neighbour is one of many duplicates, which products may round differently.
    x = draw(3, 10, 5).repeat(12, 1)
    y = 3.0 * x @ torch.linalg.qr(draw(4, 5, 5))[0]
    for size in (120, 50, 1):
        running = MutualNeighbours(x, y, k=6, places=torch.arange(120))
        for batch in zip(x.split(size), y.split(size), strict=True):
            running.update(*batch)
        assert running.compute() == 1.0
        assert running._sides[0].tokens[119].tolist() == [9, 19, 29, 39, 49, 59]


def test_neighbours_of_one_side_are_found_once_for_all_pairs() -> None:
    x, y = related(7, 80, 4, 6)
    queries = torch.arange(0, 80, 3)
    sides = [Neighbours(side[queries], 5, queries) for side in (x, y, -x)]
    for side, whole in zip(sides, (x, y, -x), strict=True):
        for batch in whole.split(33):
            side.update(batch)
    assert float(shared_neighbours(sides[0], sides[1]).mean()) == mutual_neighbours(x, y, 5, queries)
    assert float(shared_neighbours(sides[0], sides[2]).mean()) == 1.0


def test_norms_do_not_matter_however_small_or_large() -> None:
    x, y = related(5, 60, 4, 6)
    lengths = torch.logspace(-60, 60, 60, dtype=x.dtype)[:, None]
    assert mutual_neighbours(x * lengths, y, 4) == mutual_neighbours(x, y, 4)


@pytest.mark.parametrize(
    ("k", "message"), [(0, "k must be at least 1 neighbour, got 0"), (29, "from 1 to 28 with 29 tok")]
)
def test_k_out_of_range(k: int, message: str) -> None:
    x = draw(0, 30, 3)
    with pytest.raises(InputError, match=message):
        mutual_neighbours(x, x, k)


def test_bad_input() -> None:
    x = draw(0, 30, 3)
    with pytest.raises(InputError, match="2 tokens are too few: give at least 3"):
        mutual_neighbours(x[:2], x[:2], 1)
    for queries in ([], [30], [-1]):
        with pytest.raises(InputError, match="queries must be indices of the 30 tokens"):
            mutual_neighbours(x, x, 3, torch.tensor(queries, dtype=torch.int64))
    with pytest.raises(InputError, match="2 places for 30 queries: give one per query"):
        MutualNeighbours(x, x, 3, torch.tensor([1, 2]))
    running = MutualNeighbours(x, x, 3)
    with pytest.raises(InputError, match="k must be from 1 to -1 with 0 tokens to choose neighbours from, got 3"):
        running.compute()
    with pytest.raises(InputError, match="x has 4 dimensions, earlier batches had 3"):
        running.update(draw(0, 30, 4), x)
