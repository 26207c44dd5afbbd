"""The sweep operator: against inverses and least squares of numpy."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from itda_lightning.pursuit.kernels.sweeping import padded_size, sweep


def problem(count, seed):
    generator = np.random.default_rng(seed)
    atoms, x = generator.standard_normal((count, 2 * count)), generator.standard_normal(2 * count)
    size = padded_size(count + 1)
    matrix = np.full((size, size), np.nan)  # beyond the lower triangle of the problem nothing is read
    rows = np.vstack([atoms, x])
    matrix[: count + 1, : count + 1] = np.where(np.tri(count + 1), rows @ rows.T, np.nan)
    return atoms, x, matrix, np.full((2, size), np.nan)


@given(count=st.integers(1, 14), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_sweeping_solves_for_the_columns_that_are_in(count, seed, data):
    atoms, x, matrix, scratch = problem(count, seed)
    order = data.draw(st.permutations(range(count)))
    out = order[: data.draw(st.integers(0, count - 1))]
    for pivot in [*order, *out]:
        sweep(matrix, pivot, count + 1, scratch)
    left = sorted(set(order) - set(out))
    inverse = np.linalg.inv(atoms[left] @ atoms[left].T)
    swept, lower = matrix[np.ix_(left, left)], np.tri(len(left), dtype=bool)
    np.testing.assert_allclose(-swept[lower], inverse[lower], atol=1e-8 * np.abs(inverse).max())
    solved = inverse @ atoms[left] @ x
    np.testing.assert_allclose(matrix[count, left], solved, atol=1e-8 * np.abs(solved).max())
    energy = np.square(x - solved @ atoms[left]).sum()
    np.testing.assert_allclose(matrix[count, count], energy, atol=1e-8 * (x @ x))
