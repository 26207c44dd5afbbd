"""The atom of a step is that of the largest exact score, whatever screened scores are within their bound."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numba import njit
from numpy.typing import NDArray

from itda_lightning.pursuit.kernels.masks import NUMBERS, lowest, reached
from itda_lightning.pursuit.kernels.screening import (
    GROUP,
    WITHOUT_SIGN,
    bar_of,
    group_maxima,
    hide,
    select_among,
)
from itda_lightning.pursuit.kernels.sums import dot


@njit
def mask_at(numbers: NDArray, start: int, eligible: np.int32, bar: np.int32) -> np.uint64:
    return reached(numbers, start, eligible, bar)


@njit
def lowest_of(mask: np.uint64) -> int:
    return lowest(mask)


@njit
def dots(a: NDArray, rows: NDArray) -> list[np.float32]:
    return [dot(a, rows[at]) for at in range(len(rows))]


@given(st.integers(0, 10**6), st.sampled_from([0, 64]), st.booleans(), st.sampled_from([-0.5, 0.0, 0.3, 1.2, 9.0]))
def test_masks_have_the_numbers_that_reach_a_bar(seed, start, signed, bar):
    numbers = np.random.default_rng(seed).standard_normal(2 * NUMBERS).astype(np.float32)
    eligible = np.int32(-1) if signed else WITHOUT_SIGN
    least = np.float32(bar)
    mask = int(mask_at(numbers, start, eligible, least.view(np.int32) if bar >= 0 else np.int32(-(2**31))))
    compared = numbers[start : start + NUMBERS] if signed else np.abs(numbers[start : start + NUMBERS])
    expected = [True] * NUMBERS if bar < 0 else (compared >= least).tolist()
    assert [bool(mask >> place & 1) for place in range(NUMBERS)] == expected
    if mask:
        assert lowest_of(np.uint64(mask)) == expected.index(True)


@given(st.floats(2.0**-20, 1e6, width=32), st.floats(0, 1e6, width=32), st.floats(0, 2e6, width=32))
def test_no_number_below_the_bar_may_win(score, error, screened):
    score, error, screened = (np.float32(number) for number in (score, error, screened))
    if screened.view(np.int32) < bar_of(score, error):
        assert screened + error < score


@given(
    seed=st.integers(0, 10**6),
    n=st.sampled_from([1, 2, 63, 65, GROUP, GROUP + 3, 3 * GROUP - 1]),
    error=st.sampled_from([0.0, 1e-3, 0.3, 5.0]),
    nonnegative=st.booleans(),
    twice=st.booleans(),
)
def test_the_winner_has_the_largest_exact_score(seed, n, error, nonnegative, twice):
    draw = np.random.default_rng(seed)
    atoms, residual = (draw.standard_normal(shape).astype(np.float32) for shape in ((n, 20), (20,)))
    if twice:
        atoms[n // 2 :] = atoms[: n - n // 2]
    exact_scores = np.array(dots(residual, atoms))
    groups = -(-n // GROUP)
    scores = draw.standard_normal((groups, GROUP)).astype(np.float32)  # what lies behind the atoms does not matter
    scores.reshape(-1)[:n] = exact_scores + draw.uniform(-error, error, n).astype(np.float32)
    hide(scores, n)
    maxima, known = np.empty(groups, np.float32), np.zeros(n, np.bool_)
    group_maxima(scores, nonnegative, maxima)
    bound = np.float32(error * 1.001 + 1e-5)
    gram = np.zeros((n, GROUP), np.int16)
    atom, score, examined = select_among(
        scores, maxima, residual, atoms, gram, nonnegative, known, bound, np.float32(1e-5)
    )
    ranked = exact_scores if nonnegative else np.abs(exact_scores)
    assert (atom, score) == (ranked.argmax(), ranked.max())
    assert 1 <= examined == known.sum() <= n
    assert np.array_equal(scores.reshape(-1)[:n][known], exact_scores[known])
