"""The step of pursuits that take several atoms at a time, in the compiled loops without a Gram."""

import math

import numpy as np

from itda_lightning.pursuit.kernels.jit import Double, Index, compiled
from itda_lightning.pursuit.kernels.named_arrays import Choice, Path, Problem, Progress
from itda_lightning.pursuit.kernels.steps import copy_to, gram_of, subtract_atoms, widen
from itda_lightning.pursuit.kernels.sums import accurate_dot


@compiled
def solve(
    gram: Double,
    projections: Double,
    columns: Index,
    done: int,
    count: int,
    min_new_direction: float,
    factor: Double,
    solved: Double,
) -> int:
    """Solve for the coefficients of ``columns[:count]``; return how many columns are left, in place.

    A column that is linearly dependent on those before it is left out. ``solved`` receives the coefficients. ``factor``
    is the transpose of the Cholesky factor, of whose columns the first ``done`` are there from an earlier call: so that
    the loops run along its rows.
    """
    left, row = done, np.empty(count)
    for s in range(done, count):
        column = columns[s]
        new_direction = gram[column, column]
        for p in range(left):
            row[p] = gram[column, columns[p]]
        for q in range(left):
            along = row[q] / factor[q, q]
            new_direction -= along**2
            row[q] = along
            subtract_row(row, factor[q], along, q + 1, left)
        if new_direction > min_new_direction:
            for p in range(left):
                factor[p, left] = row[p]
            factor[left, left] = math.sqrt(new_direction)
            columns[left] = column
            left += 1
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
    columns, factor, solved, weights = np.empty(k, np.int64), np.empty((k, k)), np.empty(k), np.empty(k, np.float32)
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
            count = solve(gram, projections, columns, done, count, problem.min_new_direction, factor, solved)
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
