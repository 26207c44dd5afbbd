"""The step of pursuits that take several atoms at a time, in the compiled loops without a Gram."""

import math

import numpy as np

from itda_lightning.pursuit.kernels.elimination import COLUMNS, eliminate
from itda_lightning.pursuit.kernels.jit import Double, Index, compiled
from itda_lightning.pursuit.kernels.named_arrays import Choice, Path, Problem, Progress
from itda_lightning.pursuit.kernels.steps import copy_to, gram_of, subtract_atoms, widen
from itda_lightning.pursuit.kernels.sums import accurate_dot


@compiled
def factor_together(
    gram: Double,
    columns: Index,
    start: int,
    stop: int,
    left: int,
    min_new_direction: float,
    factor: Double,
    rows: Double,
    squares: Double,
) -> int:
    """Append ``columns[start:stop]`` to a factor of the first ``left``; return how many there are then, in place.

    ``rows[p, j]`` is what is left of the inner product of the j-th of them with the p-th column, those themselves
    included; ``squares[j]``, of their squared norms.
    """
    before, count, last = left, stop - start, left + stop - start
    squares[:] = 0.0
    rows[:last] = 0.0
    for j in range(count):
        row = gram[columns[start + j]]
        squares[j] = row[columns[start + j]]
        for p in range(before):
            rows[p, j] = row[columns[p]]
        for p in range(j):
            rows[before + p, j] = row[columns[start + p]]
    for q in range(before):
        eliminate(rows, q, last, factor[q], before, factor[q, q], squares)
    for i in range(count):
        if squares[i] > min_new_direction:
            length = math.sqrt(squares[i])
            if left < before + i:  # a column before it was left out
                for q in range(left):
                    factor[q, left] = factor[q, before + i]
            eliminate(rows, before + i, last, factor[left], before, length, squares)
            factor[left, left] = length
            columns[left] = columns[start + i]
            left += 1
    return left


@compiled
def solve(
    gram: Double,
    projections: Double,
    columns: Index,
    done: int,
    count: int,
    min_new_direction: float,
    factor: Double,
    rows: Double,
    squares: Double,
    solved: Double,
) -> int:
    """Solve for the coefficients of ``columns[:count]``; return how many columns are left, in place.

    A column that is linearly dependent on those before it is left out. ``solved`` receives the coefficients. ``factor``
    is the transpose of the Cholesky factor, of whose columns the first ``done`` are there from an earlier call: so that
    the loops run along its rows. It has room for ``COLUMNS`` more, and ``rows`` for as many numbers in each column.
    """
    left = done
    for start in range(done, count, COLUMNS):
        stop = min(count, start + COLUMNS)
        left = factor_together(gram, columns, start, stop, left, min_new_direction, factor, rows, squares)
    for s in range(left):
        solved[s] = projections[columns[s]]
    for q in range(left):
        solved[q] /= factor[q, q]
        subtract_row(solved, factor[q], solved[q], q + 1, left)
    for s in range(left - 1, -1, -1):
        total = solved[s]
        for q in range(s + 1, left):
            total -= factor[s, q] * solved[q]
        solved[s] = total / factor[s, s]
    return left


@compiled
def subtract_row(target: Double, row: Double, weight: float, start: int, stop: int) -> None:
    """Subtract ``weight * row`` from the entries ``start..stop`` of the target."""
    for p in range(start, stop):
        target[p] -= weight * row[p]


@compiled
def take(start: int, stop: int, first: int, problem: Problem, progress: Progress, choice: Choice, _: Path) -> None:
    """Take one step: the atoms chosen for the rows take the columns of the code from ``first`` on."""
    x, atoms, nonnegative, k = problem.x, problem.atoms, problem.nonnegative, progress.support.shape[1]
    columns, solved, weights = np.empty(k, np.int64), np.empty(k), np.empty(k, np.float32)
    factor, rows = np.zeros((k, k + COLUMNS)), np.zeros((k + COLUMNS, COLUMNS))
    squares = np.empty(COLUMNS)
    active, energy, chosen = progress.active, progress.energy, np.zeros((k + 3, x.shape[1]))
    for p in range(start, stop):
        i = progress.rows[p]
        support, coefficients, residual = progress.support[i], progress.coefficients[i], progress.residual[i]
        gram, projections = progress.matrix[i], progress.vector[i]
        last = first
        while last < first + choice.atoms.shape[1] and choice.scores[i, last - first] > progress.floor[i]:
            support[last] = choice.atoms[i, last - first]
            projections[last] = accurate_dot(x[i], atoms[support[last]])
            last += 1
        active[i] = last > first
        if not active[i]:
            continue
        count = 0
        for s in range(last):
            if support[s] >= 0:
                columns[count] = s
                count += 1
        for s in range(last):
            if support[s] >= 0:
                widen(chosen[s], atoms[support[s]])
        gram_of(chosen, first, last, gram)
        done = 0
        while True:
            count = solve(
                gram, projections, columns, done, count, problem.min_new_direction, factor, rows, squares, solved
            )
            kept, done = 0, count
            for s in range(count):
                if not nonnegative or solved[s] >= 0:
                    columns[kept], solved[kept] = columns[s], solved[s]
                    kept += 1
                else:
                    done = min(done, s)
            if kept == count:
                break
            count = kept
        position = 0
        coefficients[:last] = 0.0
        for s in range(last):
            if position < count and columns[position] == s:
                coefficients[s] = solved[position]
                position += 1
            else:
                support[s] = -1
        copy_to(residual, x[i])
        for s in range(count):
            weights[s], columns[s] = np.float32(solved[s]), support[columns[s]]
        subtract_atoms(residual, atoms, columns[:count], weights[:count])
        energy[i] = accurate_dot(residual, residual)
        active[i] = energy[i] > problem.target[i] and energy[i] > progress.floor[i] ** 2
