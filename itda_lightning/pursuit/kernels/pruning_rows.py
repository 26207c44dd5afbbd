"""The compiled loop of pruning: leave-one-out over the atoms of each code."""

import numpy as np

from itda_lightning.pursuit.kernels.jit import Double, Index, compiled
from itda_lightning.pursuit.kernels.named_arrays import Code, Problem
from itda_lightning.pursuit.kernels.prefetching import prefetch
from itda_lightning.pursuit.kernels.steps import copy_to, gram_of, subtract_atoms, widen
from itda_lightning.pursuit.kernels.sums import accurate_dot
from itda_lightning.pursuit.kernels.sweeping import padded_size, sweep

# An atom with a smaller part (its squared norm) outside the span of the others needs products in double precision.
# Rounding those in single precision, some 1e-8, moves coefficients by that part's share at most.
SMALL_DIRECTION = 1 / 32


@compiled
def distinct(support: Index, columns: Index) -> int:
    """Fill in the atoms of a code, each once; return their number."""
    count = 0
    for atom in support:
        new = atom >= 0
        for s in range(count):
            new &= columns[s] != atom
        if new:
            columns[count] = atom
            count += 1
    return count


@compiled
def solve(matrix: Double, count: int, min_new_direction: float, gone_at: Double, scratch: Double) -> float:
    """Sweep on all atoms but those that depend linearly on atoms before, which are gone at 0 and others never.

    Return the smallest squared norm of a part of an atom outside the span of the others, 0 if any depends on them.
    """
    smallest = 1.0
    for s in range(count):
        if matrix[s, s] > min_new_direction:
            sweep(matrix, s, count + 1, scratch)
            gone_at[s] = np.inf
        else:
            gone_at[s] = smallest = 0.0
    for s in range(count):
        if gone_at[s] > 0:
            smallest = min(smallest, -1.0 / matrix[s, s])
    return smallest


@compiled
def leave_one_out(
    matrix: Double, count: int, limit: float, nonnegative: bool, gone_at: Double, scratch: Double
) -> None:
    """Take atoms out one by one until the next would cost ``limit`` or more.

    ``gone_at`` is infinite for the atoms that are there, and receives the limit above which each that is taken out
    leaves.
    """
    coefficients, highest, left, columns = matrix[count], 0.0, 0, np.empty(count, np.int64)
    for s in range(count):
        if gone_at[s] == np.inf:
            columns[left] = s
            left += 1
    while left > 0:
        worst, least = 0, np.inf
        for p in range(left):
            coefficient = coefficients[columns[p]]
            gain = coefficient**2 / -matrix[columns[p], columns[p]]
            if nonnegative and coefficient < 0:
                gain = -gain
            if gain < least:
                worst, least = p, gain
        if least >= limit:
            return
        highest = max(highest, least)
        gone_at[columns[worst]] = highest
        sweep(matrix, columns[worst], count + 1, scratch)
        left -= 1
        for p in range(worst, left):
            columns[p] = columns[p + 1]


@compiled
def prune_rows(start: int, stop: int, problem: Problem, least_gain: float, code: Code, bears: Double) -> None:
    """Prune the codes of the activations ``start..stop``.

    Args:
        least_gain: share of an activation's energy that an atom must explain; if infinite, all leave.
        bears: (batch, k) receives, for the distinct atoms of the code in their order, the largest share at which they
            stay; infinite for those that stay at ``least_gain``.
    """
    x, atoms, k, d = problem.x, problem.atoms, code.support.shape[1], problem.x.shape[1]
    matrix, scratch = np.zeros((padded_size(k + 1), padded_size(k + 1))), np.zeros((2, padded_size(k + 1)))
    columns, weights, residual = np.empty(k, np.int64), np.empty(k, np.float32), np.empty(d, np.float32)
    # The atoms of a code, and after them the activation: the Gram of all has its projections as the last row.
    rows, exact = np.zeros((k + 4, d), np.float32), np.zeros((k + 4, d))
    for i in range(start, stop):
        support, gone, energy = code.support[i], bears[i], accurate_dot(x[i], x[i])
        limit = least_gain * energy if least_gain < np.inf else np.inf
        count = distinct(support, columns)
        for s in range(count):
            widen(rows[s], atoms[columns[s]])
        copy_to(rows[count], x[i])
        if i + 1 < stop:
            for atom in code.support[i + 1]:
                prefetch(atoms, max(atom, 0))
        gone[count:] = 0.0
        gram_of(rows, 0, count + 1, matrix)
        if solve(matrix, count, problem.min_new_direction, gone, scratch) < SMALL_DIRECTION:
            for s in range(count + 1):
                copy_to(exact[s], rows[s])
            gram_of(exact, 0, count + 1, matrix)
            solve(matrix, count, problem.min_new_direction, gone, scratch)
        leave_one_out(matrix, count, limit, problem.nonnegative, gone, scratch)
        kept = 0
        for s in range(count):
            if gone[s] == np.inf:
                columns[kept], weights[kept] = columns[s], np.float32(matrix[count, s])
                kept += 1
        for s in range(k):
            if energy > 0:
                gone[s] /= energy
            support[s] = columns[s] if s < kept else -1
            code.coefficients[i, s] = weights[s] if s < kept else np.float32(0)
        copy_to(residual, x[i])
        subtract_atoms(residual, atoms, columns[:kept], weights[:kept])
        code.energy[i] = accurate_dot(residual, residual)
