"""The compiled loop of pruning: leave-one-out over the atoms of each code."""

import numpy as np

from itda_lightning.pursuit.kernels.jit import Double, Index, compiled
from itda_lightning.pursuit.kernels.named_arrays import Code, Problem
from itda_lightning.pursuit.kernels.prefetching import prefetch
from itda_lightning.pursuit.kernels.steps import copy_to, gram_of, subtract_atoms, widen
from itda_lightning.pursuit.kernels.sums import accurate_dot


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
def sweep(matrix: Double, pivot: int, size: int, column: Double) -> None:
    """Sweep a symmetric matrix, of which the lower triangle is stored, on a diagonal entry (Goodnight 1979).

    Sweeping a Gram matrix, below which the projections of x stand, on some of its columns leaves minus the inverse of
    their Gram, and below that the least-squares coefficients of x; sweeping on one of them again takes it out.
    """
    share = 1.0 / matrix[pivot, pivot]
    for s in range(pivot):
        column[s] = matrix[pivot, s]
    for s in range(pivot, size):
        column[s] = matrix[s, pivot]
    for s in range(size):
        weight, row = column[s] * share, matrix[s]
        for p in range(s + 1):
            row[p] -= weight * column[p]
    for s in range(pivot):
        matrix[pivot, s] = column[s] * share
    for s in range(pivot + 1, size):
        matrix[s, pivot] = column[s] * share
    matrix[pivot, pivot] = -share


@compiled
def leave_one_out(
    matrix: Double, count: int, limit: float, nonnegative: bool, gone_at: Double, column: Double
) -> None:
    """Take atoms out one by one until the next would cost ``limit`` or more.

    ``gone_at`` is infinite for the atoms that are there; it receives the limit above which each that is taken out
    leaves.
    """
    coefficients, highest = matrix[count], 0.0
    while True:
        worst, least = -1, np.inf
        for s in range(count):
            if gone_at[s] == np.inf:
                gain = coefficients[s] ** 2 / -matrix[s, s]
                if nonnegative and coefficients[s] < 0:
                    gain = -gain
                if gain < least:
                    worst, least = s, gain
        if worst < 0 or least >= limit:
            return
        highest = max(highest, least)
        gone_at[worst] = highest
        sweep(matrix, worst, count + 1, column)


@compiled
def prune_rows(start: int, stop: int, problem: Problem, limit: Double, code: Code, gone_at: Double) -> None:
    """Prune the codes of the activations ``start..stop``.

    Args:
        limit: (batch,) energies that an atom must explain.
        gone_at: (batch, k) receives, for the distinct atoms of the code in their order, the energies above which they
            leave; infinite for those that stay.
    """
    x, atoms, k = problem.x, problem.atoms, code.support.shape[1]
    matrix, column = np.empty((k + 1, k + 1)), np.empty(k + 1)
    columns, weights = np.empty(k, np.int64), np.empty(k, np.float32)
    residual, chosen = np.empty(x.shape[1], np.float32), np.zeros((k + 3, x.shape[1]))
    for i in range(start, stop):
        support, gone = code.support[i], gone_at[i]
        count = distinct(support, columns)
        for s in range(count):
            # Each atom is in many products: it is made double precision once.
            widen(chosen[s], atoms[columns[s]])
            matrix[count, s] = accurate_dot(x[i], chosen[s])
        gram_of(chosen, 0, count, matrix)
        gone[:] = 0.0
        for s in range(count):
            if matrix[s, s] > problem.min_new_direction:  # else it depends on those before
                sweep(matrix, s, count + 1, column)
                gone[s] = np.inf
        leave_one_out(matrix, count, limit[i], problem.nonnegative, gone, column)
        kept = 0
        for s in range(count):
            if gone[s] == np.inf:
                columns[kept], weights[kept] = columns[s], np.float32(matrix[count, s])
                kept += 1
        for s in range(k):
            support[s] = columns[s] if s < kept else -1
            code.coefficients[i, s] = weights[s] if s < kept else np.float32(0)
        copy_to(residual, x[i])
        subtract_atoms(residual, atoms, columns[:kept], weights[:kept])
        code.energy[i] = accurate_dot(residual, residual)
