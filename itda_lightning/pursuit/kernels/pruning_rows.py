"""The compiled loop of pruning: leave-one-out over the atoms of each code."""

import math

import numpy as np

from itda_lightning.pursuit.kernels.jit import Double, Index, compiled
from itda_lightning.pursuit.kernels.named_arrays import Code, Problem
from itda_lightning.pursuit.kernels.steps import (
    combine_rows,
    copy_to,
    gram_of,
    products_with_rows,
    subtract_atoms,
    widen,
)
from itda_lightning.pursuit.kernels.sums import accurate_dot


@compiled
def invert(gram: Double, columns: Index, count: int, min_new_direction: float, rows: Double, inverse: Double) -> int:
    """Fill in the inverse of the Gram of ``columns[:count]``; return how many columns are left, in place.

    A column that is linearly dependent on those before it is left out. ``rows`` receives the inverse of the Gram's
    Cholesky factor.
    """
    left, scratch = 0, np.empty((2, count))
    for s in range(count):
        column = columns[s]
        inner, along = scratch[0, :left], scratch[1, :left]
        for p in range(left):
            inner[p] = gram[column, columns[p]]
        new_direction = gram[column, column] - products_with_rows(rows, inner, along)
        if new_direction > min_new_direction:
            length = math.sqrt(new_direction)
            combine_rows(rows[left, :left], rows, along, -1.0 / length)
            rows[left, left] = 1.0 / length
            columns[left] = column
            left += 1
    inverse[:left, :left] = 0.0
    for q in range(left):
        for p in range(q + 1):
            weight = rows[q, p]
            for s in range(p + 1):
                inverse[p, s] += weight * rows[q, s]
    for p in range(left):
        for s in range(p):
            inverse[s, p] = inverse[p, s]
    return left


@compiled
def leave_one_out(
    inverse: Double, coefficients: Double, count: int, limit: float, nonnegative: bool, present: Index, gone_at: Double
) -> None:
    """Take atoms out one by one until the next would cost ``limit`` or more; ``present`` tells which are left.

    ``gone_at`` receives the limit above which each atom that was taken out leaves.
    """
    present[:count] = 1
    highest = 0.0
    for _ in range(count):
        worst, least = -1, np.inf
        for s in range(count):
            if present[s]:
                gain = coefficients[s] ** 2 / inverse[s, s]
                if nonnegative and coefficients[s] < 0:
                    gain = -gain
                if gain < least:
                    worst, least = s, gain
        if worst < 0 or least >= limit:
            return
        highest = max(highest, least)
        gone_at[worst], present[worst] = highest, 0
        for s in range(count):
            if present[s]:
                share = inverse[s, worst] / inverse[worst, worst]
                coefficients[s] -= share * coefficients[worst]
                for p in range(count):  # of all: entries of atoms that are gone are not read again
                    inverse[s, p] -= share * inverse[worst, p]


@compiled
def prune_rows(start: int, stop: int, problem: Problem, limit: Double, code: Code, gone_at: Double) -> None:
    """Prune the codes of the activations ``start..stop``, whose unused columns are the last ones.

    Args:
        limit: (batch,) energies that an atom must explain.
        gone_at: (batch, k) receives, for the first columns of the code, the energies above which they leave; infinite
            for those that stay.
    """
    x, atoms, k = problem.x, problem.atoms, code.support.shape[1]
    gram, factor, inverse = np.empty((k, k)), np.empty((k, k)), np.empty((k, k))
    projections, solved, gone = np.empty(k), np.empty(k), np.empty(k)
    columns, present, weights = np.empty(k, np.int64), np.empty(k, np.int64), np.empty(k, np.float32)
    residual, chosen = np.empty(x.shape[1], np.float32), np.zeros((k + 3, x.shape[1]))
    for i in range(start, stop):
        support, count = code.support[i], 0
        while count < k and support[count] >= 0:
            # Each atom is in many products: it is made double precision once.
            widen(chosen[count], atoms[support[count]])
            columns[count] = count
            projections[count] = accurate_dot(x[i], chosen[count])
            count += 1
        gram_of(chosen, 0, count, gram)
        left = invert(gram, columns, count, problem.min_new_direction, factor, inverse)
        for s in range(left):
            total = 0.0
            for p in range(left):
                total += inverse[s, p] * projections[columns[p]]
            solved[s] = total
        gone[:] = np.inf
        leave_one_out(inverse, solved, left, limit[i], problem.nonnegative, present, gone)
        kept = 0
        for s in range(left):
            if present[s]:
                columns[kept], weights[kept] = support[columns[s]], np.float32(solved[s])
                kept += 1
        for s in range(k):
            gone_at[i, s] = gone[s] if s < left else 0.0
            support[s] = columns[s] if s < kept else -1
            code.coefficients[i, s] = weights[s] if s < kept else np.float32(0)
        copy_to(residual, x[i])
        subtract_atoms(residual, atoms, columns[:kept], weights[:kept])
        code.energy[i] = accurate_dot(residual, residual)
