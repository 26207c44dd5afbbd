"""Nulls of measures against the mean over permutations that are carried out, and the excess over them."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itda_lightning.measures import (
    CrossMoments,
    RelativeSimilarity,
    aligned_cosine_null,
    angular_procrustes,
    angular_procrustes_of,
    cka,
    cka_null_of,
    cka_of,
    distance_correlation,
    excess,
    expected_weighted_jaccard,
    mutual_neighbours,
    neighbours_null,
    null_of,
    procrustes,
    procrustes_of,
    pwcca,
    pwcca_of,
    regression_null_of,
    regression_r2,
    rsa,
    svcca,
    svcca_of,
)
from itda_lightning.measures.aligned_cosine import aligned_cosines
from itda_lightning.measures.distance_correlation import distance_correlation_null
from itda_lightning.measures.distances import distances
from itda_lightning.measures.permuted import permuted, rotation_block, square_root
from itda_lightning.measures.second_order import Neighbourhood, second_order_cosine, second_order_null
from tests.measures.representations import debiased_cka, draw, related


def orders(n: int) -> list[torch.Tensor]:
    return [torch.tensor(order) for order in itertools.permutations(range(n))]


def over(measure, x: torch.Tensor, y: torch.Tensor, count: int = 300) -> tuple[float, float]:
    """Return the mean of a measure over random permutations, and its standard error."""
    generator = torch.Generator().manual_seed(0)
    values = [measure(x, y[torch.randperm(len(y), generator=generator)]) for _ in range(count)]
    return float(np.mean(values)), float(np.std(values) / np.sqrt(count))


def test_closed_forms_are_the_mean_over_every_permutation() -> None:
    x, y = related(0, 6, 2, 3)
    each = orders(6)
    moments = CrossMoments.of(x, y)
    assert cka_null_of(moments) == pytest.approx(np.mean([cka(x, y[order]) for order in each]), rel=1e-10)
    assert np.mean([debiased_cka(x, y[order]) for order in each]) == pytest.approx(0, abs=1e-10)
    of_regression = np.mean([regression_r2(x, y[order]) for order in each])
    assert regression_null_of(moments) == pytest.approx(of_regression, rel=1e-10) == 2 / 5
    of_neighbours = np.mean([mutual_neighbours(x, y[order], k=2) for order in each])
    assert neighbours_null(2, 6) == pytest.approx(of_neighbours, rel=1e-10) == 2 / 5
    assert np.mean([rsa(x, y[order]) for order in each]) == pytest.approx(0, abs=1e-10)
    squares = np.mean([distance_correlation(x, y[order]) ** 2 for order in each])
    assert distance_correlation_null(distances(x), distances(y)) ** 2 == pytest.approx(squares, rel=1e-10)


def test_relative_representations_with_tokens_and_anchors_permuted() -> None:
    x, y = draw(0, 5, 3), draw(1, 5, 4)
    anchors_x, anchors_y = draw(2, 4, 3), draw(3, 4, 4)
    values = []
    for tokens, anchors in itertools.product(orders(5), orders(4)):
        one = RelativeSimilarity(anchors_x, anchors_y[anchors])
        one.update(x, y[tokens])
        values.append(one.compute())
    similarity = RelativeSimilarity(anchors_x, anchors_y)
    similarity.update(x[:2], y[:2])
    similarity.update(x[2:], y[2:])
    assert similarity.null() == pytest.approx(np.mean(values), rel=1e-10)


@pytest.mark.parametrize(
    ("measure", "of_moments"),
    [
        (procrustes, procrustes_of),
        (angular_procrustes, angular_procrustes_of),
        (svcca, svcca_of),
        (pwcca, pwcca_of),
        (cka, cka_of),
    ],
)
def test_draws_from_the_moments_give_the_mean_over_permutations(measure, of_moments) -> None:
    x, y = related(1, 120, 25, 20)
    x = x * torch.linspace(0.2, 3, 25, dtype=x.dtype)
    mean, error = over(measure, x, y)
    assert mean > 0.03, "or the test would say little"
    # Four draws, whose spread is that of permutations.
    spread = error * math.sqrt(300 / 4)
    assert null_of(of_moments, CrossMoments.of(x, y)) == pytest.approx(mean, abs=4 * spread)
    assert 4 * spread < 0.3 * mean


def test_draws_have_the_covariance_of_permutations() -> None:
    x, y = related(2, 7, 2, 2)
    moments = CrossMoments.of(x, y)
    assert square_root(moments.xx) @ square_root(moments.xx).T == pytest.approx(moments.xx, rel=1e-10)
    products = torch.stack([((x - x.mean(0)).T @ y[order]).flatten() for order in orders(7)])
    exact = products.T @ products / len(products)
    assert exact == pytest.approx(torch.kron(moments.xx, moments.yy) / 6, abs=1e-9)
    roots = square_root(moments.xx), square_root(moments.yy)
    drawn = torch.stack([permuted(moments, *roots, seed=seed).xy.flatten() for seed in range(4000)])
    assert drawn.T @ drawn / 4000 == pytest.approx(exact, abs=0.1 * float(exact.diagonal().max()))


def test_sampled_measures_permute_the_rows_themselves() -> None:
    x, y = related(3, 60, 5, 6)
    for null, measure in (
        (aligned_cosine_null(x, y), lambda a, b: float(aligned_cosines(a, b).mean())),
        (
            second_order_null(Neighbourhood.of(x, 5), Neighbourhood.of(y, 5)),
            lambda a, b: second_order_cosine(a, b, 5),
        ),
    ):
        seeds = [torch.randperm(60, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
        assert null == pytest.approx(np.mean([measure(x, y[order]) for order in seeds]), abs=1e-9)


@given(seed=st.integers(0, 1000), n=st.integers(1, 5), m=st.integers(1, 5))
def test_weights_at_random_places(seed: int, n: int, m: int) -> None:
    generator = np.random.default_rng(seed)
    u, v = np.pad(generator.random(n), (0, 6 - n)), np.pad(generator.random(m), (0, 6 - m))
    common = np.mean([np.minimum(u, v[list(order)]).sum() for order in itertools.permutations(range(6))])
    expected = expected_weighted_jaccard(torch.from_numpy(u[:n]), torch.from_numpy(v[:m]), universe=6)
    assert expected == pytest.approx(common / (u.sum() + v.sum() - common), rel=1e-10)


@given(value=st.floats(-1, 1), null=st.floats(-1, 0.99))
def test_the_excess_is_0_at_chance_and_1_for_identity_and_keeps_the_order(value: float, null: float) -> None:
    assert excess(null, null) == 0
    assert excess(1.0, null) == pytest.approx(1)
    assert excess(value, null) <= excess(min(1.0, value + 0.1), null)
    assert math.isnan(excess(value, 1.0))


def test_unrelated_wide_representations_have_no_excess() -> None:
    x, y = draw(0, 100, 60), draw(1, 100, 50)
    for measure, of_moments in (
        (procrustes, procrustes_of),
        (cka, cka_of),
        (angular_procrustes, angular_procrustes_of),
    ):
        moments = CrossMoments.of(x, y)
        assert measure(x, y) > 0.3
        assert abs(excess(measure(x, y), null_of(of_moments, moments))) < 0.05
    assert abs(excess(cka(x, y), cka_null_of(CrossMoments.of(x, y)))) < 0.05


@pytest.mark.parametrize(("n", "rows", "columns"), [(6, 2, 3), (6, 4, 3), (6, 6, 6), (40, 3, 2)])
def test_a_block_of_a_rotation_has_its_variances_and_a_whole_one_is_a_rotation(n: int, rows: int, columns: int) -> None:
    blocks = np.stack([rotation_block(n, rows, columns, seed).numpy() for seed in range(3000)])
    assert (blocks**2).mean(0) == pytest.approx(np.full((rows, columns), 1 / n), abs=0.012)
    assert blocks.mean(0) == pytest.approx(np.zeros((rows, columns)), abs=0.05)
    assert np.linalg.norm(blocks, 2, axis=(1, 2)).max() <= 1 + 1e-12
    if rows == columns == n:
        assert blocks[0] @ blocks[0].T == pytest.approx(np.eye(n), abs=1e-12)
