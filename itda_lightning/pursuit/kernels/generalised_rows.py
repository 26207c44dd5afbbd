"""The compiled loops of the generalised pursuit, one activation at a time; see ``screening``."""

import math

import numpy as np

from itda_lightning.pursuit.kernels.jit import Atoms, Double, Flags, Index, Single, compiled
from itda_lightning.pursuit.kernels.steps import subtract_atoms
from itda_lightning.pursuit.kernels.sums import accurate_dot, dot

COMPILED_IN = {"jit": "e1474fd3dc17", "steps": "6c3a865703f3", "sums": "eec371747bc7"}


@compiled
def insert(atom: int, score: float, atoms: Index, scores: Double) -> None:
    """Put an atom into the list of the best, the largest score first, the lowest index where several are equal."""
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


@compiled
def select_several(
    start: int,
    stop: int,
    rows: Index,
    part_scores: Single,
    first_atom: int,
    n: int,
    residual: Single,
    atoms: Atoms,
    coarse: Single,
    coarse_relative: float,
    rounding: float,
    nonnegative: bool,
    support: Index,
    chosen: Index,
    score: Double,
) -> None:
    """Bring the lists of the best atoms outside the support up to date with the ``n`` atoms from ``first_atom`` on.

    Row ``p`` of ``part_scores`` and of ``coarse`` belongs to the activation ``rows[p]``, for p in ``start..stop``.
    """
    count = chosen.shape[1]
    screened_atoms, screened = np.empty(count, np.int64), np.empty(count)
    for p in range(start, stop):
        i, scores = rows[p], part_scores[p].reshape(-1)[:n]
        top = np.float32(0)
        for atom in range(n):
            top = max(top, abs(scores[atom]))
        error = coarse[p] + coarse_relative * top + rounding * math.sqrt(accurate_dot(residual[i], residual[i]))
        for atom in support[i]:
            if first_atom <= atom < first_atom + n:
                scores[atom - first_atom] = 0
        screened_atoms[:], screened[:] = -1, 0.0
        for atom in range(n):
            value = scores[atom] if nonnegative else abs(scores[atom])
            if value > screened[count - 1]:
                insert(atom, value, screened_atoms, screened)
        # The exact scores of the best so screened are at most the error below; nothing that is below those by more can win.
        bar = max(screened[count - 1] - 2 * error, score[i, count - 1] - error)
        for atom in range(n):
            value = scores[atom] if nonnegative else abs(scores[atom])
            if value >= bar and value != 0:
                exact = dot(residual[i], atoms[first_atom + atom])
                exact = exact if nonnegative else abs(exact)
                insert(first_atom + atom, exact, chosen[i], score[i])


@compiled
def solve(
    gram: Double,
    projections: Double,
    columns: Index,
    count: int,
    min_new_direction: float,
    factor: Double,
    solved: Double,
) -> int:
    """Least-squares coefficients of ``columns[:count]``, in ``solved``; the number that is left of them, in place.

    A column that is linearly dependent on those before it is left out.
    """
    left = 0
    for s in range(count):
        column = columns[s]
        new_direction = gram[column, column]
        for p in range(left):
            total = gram[column, columns[p]]
            for q in range(p):
                total -= factor[left, q] * factor[p, q]
            factor[left, p] = total / factor[p, p]
            new_direction -= factor[left, p] ** 2
        if new_direction > min_new_direction:
            factor[left, left] = math.sqrt(new_direction)
            columns[left] = column
            left += 1
    for s in range(left):
        total = projections[columns[s]]
        for q in range(s):
            total -= factor[s, q] * solved[q]
        solved[s] = total / factor[s, s]
    for s in range(left - 1, -1, -1):
        total = solved[s]
        for q in range(s + 1, left):
            total -= factor[q, s] * solved[q]
        solved[s] = total / factor[s, s]
    return left


@compiled
def take_several(
    start: int,
    stop: int,
    rows: Index,
    first: int,
    x: Single,
    atoms: Atoms,
    residual: Single,
    chosen: Index,
    score: Double,
    target: Double,
    floor: Double,
    active: Flags,
    nonnegative: bool,
    min_new_direction: float,
    support: Index,
    coefficients: Double,
    gram: Double,
    projections: Double,
    energy: Double,
) -> None:
    """One step of the rows' pursuits: the atoms chosen for them take the columns of the code from ``first`` on."""
    k = support.shape[1]
    columns, factor, solved, weights = np.empty(k, np.int64), np.empty((k, k)), np.empty(k), np.empty(k, np.float32)
    for p in range(start, stop):
        i = rows[p]
        last = first
        while last < first + chosen.shape[1] and score[i, last - first] > floor[i]:
            atom = chosen[i, last - first]
            support[i, last] = atom
            projections[i, last] = accurate_dot(x[i], atoms[atom])
            last += 1
        active[i] = last > first
        if not active[i]:
            continue
        count = 0
        for s in range(last):
            if support[i, s] >= 0:
                columns[count] = s
                count += 1
        for s in range(first, last):
            for t in range(s + 1):
                if support[i, t] >= 0:
                    gram[i, s, t] = accurate_dot(atoms[support[i, s]], atoms[support[i, t]])
        while True:
            count = solve(gram[i], projections[i], columns, count, min_new_direction, factor, solved)
            kept = 0
            for s in range(count):
                if not nonnegative or solved[s] >= 0:
                    columns[kept], solved[kept] = columns[s], solved[s]
                    kept += 1
            if kept == count:
                break
            count = kept
        position = 0
        coefficients[i, :last] = 0.0
        for s in range(last):
            if position < count and columns[position] == s:
                coefficients[i, s] = solved[position]
                position += 1
            else:
                support[i, s] = -1
        residual[i] = x[i]
        for s in range(count):
            weights[s], columns[s] = np.float32(solved[s]), support[i, columns[s]]
        subtract_atoms(residual[i], atoms, columns[:count], weights[:count])
        energy[i] = accurate_dot(residual[i], residual[i])
        active[i] = energy[i] > target[i] and energy[i] > floor[i] ** 2
