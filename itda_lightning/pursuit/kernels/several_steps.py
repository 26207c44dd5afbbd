"""The compiled loops of pursuits that take several atoms per step; see ``screening``."""

import math

import numpy as np

from itda_lightning.pursuit.kernels.jit import Double, Index, Single, compiled, vectorised
from itda_lightning.pursuit.kernels.named_arrays import Choice, Path, Problem, Progress, Screen
from itda_lightning.pursuit.kernels.screening import as_number, larger, magnitude_bits, signed_bits
from itda_lightning.pursuit.kernels.steps import copy_to, gram_of, subtract_atoms, widen
from itda_lightning.pursuit.kernels.sums import accurate_dot, dot

# Atoms that share one largest score, by which most are passed over; divides ``screening.GROUP``.
FEW = 16


@compiled
def insert(atom: int, score: float, atoms: Index, scores: Double) -> None:
    """Put an atom into the list of the best, the largest score first, the lowest index of equal ones first."""
    place = atoms.shape[0]
    while place > 0 and (
        score > scores[place - 1] or (score == scores[place - 1] and (atoms[place - 1] < 0 or atom < atoms[place - 1]))
    ):
        place -= 1
    if place == atoms.shape[0]:
        return
    for later in range(atoms.shape[0] - 1, place, -1):
        atoms[later], scores[later] = atoms[later - 1], scores[later - 1]
    atoms[place], scores[place] = atom, score


@vectorised
def few_maxima(scores: Single, nonnegative: bool, maxima: Single) -> np.float32:
    """Fill in the largest score of every ``FEW`` atoms, at least 0; return the largest |score| of all."""
    top = np.float32(0)
    for few in range(maxima.shape[0]):
        bits, signed = np.int32(0), np.int32(0)
        for q in range(few * FEW, (few + 1) * FEW):
            bits = larger(bits, magnitude_bits(scores[q]))
            signed = larger(signed, signed_bits(scores[q]))  # negative numbers are negative integers
        top = max(top, as_number(bits))
        maxima[few] = as_number(signed if nonnegative else bits)
    return top


@compiled
def best_screened(scores: Single, maxima: Single, nonnegative: bool, best: Double, atoms: Index) -> float:
    """Return the last of the ``len(best)`` best scores, 0 if there are fewer; ``best`` and ``atoms`` are scratch.

    The best of as many groups are a bar that no smaller score passes.
    """
    last = best.shape[0] - 1
    atoms[:], best[:] = -1, 0.0
    for few in range(maxima.shape[0]):
        if maxima[few] > best[last]:
            insert(few, maxima[few], atoms, best)
    bar = best[last]
    atoms[:], best[:] = -1, 0.0
    for few in range(maxima.shape[0]):
        if maxima[few] < bar or maxima[few] == 0:
            continue
        for atom in range(few * FEW, (few + 1) * FEW):
            value = scores[atom] if nonnegative else abs(scores[atom])
            if value > best[last]:
                insert(atom, value, atoms, best)
    return best[last]


@compiled
def select(start: int, stop: int, problem: Problem, screen: Screen, progress: Progress, choice: Choice) -> None:
    """Bring the lists of the best atoms outside the support up to date with the screened part of the atoms.

    Row ``p`` of the screen belongs to the activation ``progress.rows[p]``, for p in ``start..stop``.
    """
    count, first, n, nonnegative = choice.atoms.shape[1], screen.first, screen.n_atoms, problem.nonnegative
    screened_atoms, screened = np.empty(count, np.int64), np.empty(count)
    maxima = np.empty(-(-n // FEW), np.float32)
    for p in range(start, stop):
        i = progress.rows[p]
        scores, residual = screen.scores[p].reshape(-1), progress.residual[i]
        error = problem.rounding * math.sqrt(accurate_dot(residual, residual))
        for atom in progress.support[i]:
            if first <= atom < first + n:
                scores[atom - first] = 0
        top = few_maxima(scores, nonnegative, maxima)
        error += screen.error[p] + screen.relative * top
        # The best exact scores are at least the best screened ones less the error, so nothing much below those can win.
        last = best_screened(scores, maxima, nonnegative, screened, screened_atoms)
        bar = max(last - 2 * error, choice.scores[i, count - 1] - error)
        for few in range(maxima.shape[0]):
            if maxima[few] < bar:
                continue
            for atom in range(few * FEW, min(n, (few + 1) * FEW)):
                value = scores[atom] if nonnegative else abs(scores[atom])
                if value >= bar and value != 0:  # a negative one may be positive but for its error
                    exact = dot(residual, problem.atoms[first + atom])
                    insert(first + atom, exact if nonnegative else abs(exact), choice.atoms[i], choice.scores[i])


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
    active, energy, chosen = progress.active, progress.energy, np.zeros((k + 1, x.shape[1]))
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
