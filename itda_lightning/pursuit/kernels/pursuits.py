"""The compiled loops of both pursuits: one activation at a time, so that its scores stay in the cache.

Atoms are float32, or the bits of bfloat16 in 16-bit integers, which become float32 on their way into a sum.
"""

import math
from typing import Any

import numpy as np

from itda_lightning.pursuit.kernels.jit import Atoms, Double, Entries, Flags, Index, Single, compiled
from itda_lightning.pursuit.kernels.screening import GROUP, group_maxima, hide, select, update_scores
from itda_lightning.pursuit.kernels.steps import take_matching, take_orthogonal
from itda_lightning.pursuit.kernels.sums import accurate_dot, dot

COMPILED_IN = {"jit": "e1474fd3dc17", "screening": "fbef86534107", "steps": "6c3a865703f3", "sums": "eec371747bc7"}


@compiled
def fill_gram_row(atoms: Atoms, atom: int, visible: int, row: Entries, unit: float) -> None:
    """Fill in the inner products of one atom with the first ``visible`` ones."""
    for other in range(visible):
        row[other] = np.int16(np.rint(dot(atoms[atom], atoms[other]) / np.float32(unit)))


@compiled
def room_for_one(d: int, k: int, groups: int) -> Any:
    """Memory for the pursuit of one activation: residual, exact scores, maxima, coefficients and their changes, factors."""
    return (
        np.empty(d, np.float32), np.empty(groups * GROUP, np.bool_), np.empty(groups, np.float32), np.empty(k),
        np.empty(k), np.empty((2, k)), np.empty(k, np.float32), np.empty((k, k)),
    )  # fmt: skip


@compiled
def pursue_row(
    i: int,
    x: Single,
    atoms: Atoms,
    all_scores: Single,
    gram: Entries,
    unit: float,
    coarse: Single,
    coarse_relative: float,
    rounding: float,
    visible: int,
    appended: int,
    has_gram_row: Flags,
    target: float,
    noise_floor: float,
    orthogonal: bool,
    nonnegative: bool,
    min_new_direction: float,
    support: Index,
    coefficients: Single,
    best: Single,
    history: Single,
    room: Any,
) -> tuple[float, float, int]:
    """The pursuit of row ``i`` in the Gram form: what is left of its energy, its first score, how many atoms it looked at.

    ``all_scores`` (batch, groups, GROUP) are the screened scores before the first step, with errors of at most
    ``coarse[row] + coarse_relative * max |score|``; they are overwritten. ``gram`` is (capacity, padded), its entries
    multiples of ``unit``, so off by at most half of that. ``rounding`` bounds the error of a sum of products, relative to
    the product of norms. ``best`` and ``history`` are a path's, or empty.

    Besides the ``visible`` atoms of the screen there are ``appended`` ones behind them, which are always scored from the
    residual; a row of the Gram is filled in for one that wins, as ``has_gram_row`` says.
    """
    residual, all_exact, all_maxima, found, change, scratch, weights, inverse = room
    energy = accurate_dot(x[i], x[i])
    norm, moved, first_score, examined = math.sqrt(energy), 0.0, 0.0, 0
    groups = (visible + GROUP - 1) // GROUP
    scores, maxima, exact = all_scores[i, :groups], all_maxima[:groups], all_exact[:visible]
    residual[:] = x[i]
    exact[:] = False
    hide(scores, visible)
    start_error = coarse[i] + coarse_relative * group_maxima(scores, nonnegative, maxima)
    for step in range(support.shape[1]):
        if energy <= target:
            break
        atom, score = 0, np.float32(0)
        if energy > (noise_floor * norm) ** 2:
            if visible > 0:
                fine = rounding * (norm + moved) + unit * moved
                atom, score, looked_at = select(
                    scores, maxima, residual, atoms, nonnegative, exact,
                    np.float32(start_error + fine), np.float32(fine),
                )  # fmt: skip
                examined += looked_at
            for candidate in range(visible, visible + appended):
                own = dot(residual, atoms[candidate])
                own = own if nonnegative else abs(own)
                if own > score:
                    atom, score = candidate, own
        if step == 0:
            first_score = float(score)
        if best.shape[0] > 0:
            best[i, step] = np.float32(max(float(score), noise_floor * norm))
            history[i, step, :step] = found[:step]
        if score <= noise_floor * norm:
            break
        first = 0
        if orthogonal:
            if not take_orthogonal(
                atom, step, x[i], atoms, residual, support[i], found, change, inverse, scratch, weights, nonnegative,
                min_new_direction,
            ):  # fmt: skip
                break
        else:
            first = step
            take_matching(atom, step, atoms, residual, support[i], found, change)
        for s in range(first, step + 1):
            coefficients[i, s] = np.float32(found[s])
            moved += abs(change[s])
        energy = accurate_dot(residual, residual)
        if step + 1 < support.shape[1] and energy > target and visible > 0:
            if atom >= visible and not has_gram_row[atom - visible]:
                fill_gram_row(atoms, atom, visible, gram[atom], unit)
                has_gram_row[atom - visible] = True
            update_scores(
                scores, gram, unit, support[i, first : step + 1], change[first : step + 1], weights, visible, nonnegative,
                maxima,
            )  # fmt: skip
    return energy, first_score, examined


@compiled
def pursue_rows(
    start: int,
    stop: int,
    x: Single,
    atoms: Atoms,
    all_scores: Single,
    gram: Entries,
    unit: float,
    coarse: Single,
    coarse_relative: float,
    rounding: float,
    visible: Index,
    target: Double,
    noise_floor: float,
    orthogonal: bool,
    nonnegative: bool,
    min_new_direction: float,
    support: Index,
    coefficients: Single,
    energy: Double,
    best: Single,
    history: Single,
    examined: Index,
) -> None:
    """Pursuits of the rows ``start..stop``, in the Gram form; see ``pursue_row``."""
    room, none = room_for_one(x.shape[1], support.shape[1], all_scores.shape[1]), np.empty(0, np.bool_)
    for i in range(start, stop):
        energy[i], _, examined[i] = pursue_row(
            i, x, atoms, all_scores, gram, unit, coarse, coarse_relative, rounding, visible[i], 0, none, target[i], noise_floor,
            orthogonal, nonnegative, min_new_direction, support, coefficients, best, history, room,
        )  # fmt: skip


@compiled
def pursue_and_append(
    x: Single,
    directions: Atoms,
    atoms: Atoms,
    n: int,
    all_scores: Single,
    gram: Entries,
    unit: float,
    coarse: Single,
    coarse_relative: float,
    rounding: float,
    target: Double,
    largest_cosine: float,
    noise_floor: float,
    orthogonal: bool,
    nonnegative: bool,
    min_new_direction: float,
    k: int,
    energy: Double,
    appended: Flags,
    examined: Index,
) -> None:
    """Pursuits one after another; what leaves more energy than its target becomes an atom for those after it.

    Row ``i`` of ``directions`` is appended behind the ``n`` atoms, unless there is no room or an atom with a cosine of at
    least ``largest_cosine``: then the pursuit began with it, so the first score tells.
    """
    room, has_gram_row = room_for_one(x.shape[1], k, all_scores.shape[1]), np.zeros(x.shape[0], np.bool_)
    support, coefficients = np.full((x.shape[0], k), -1), np.empty((x.shape[0], k), np.float32)
    no_best, no_history = np.empty((0, k), np.float32), np.empty((0, k, k), np.float32)
    count = 0
    for i in range(x.shape[0]):
        norm = math.sqrt(accurate_dot(x[i], x[i]))
        energy[i], score, examined[i] = pursue_row(
            i, x, atoms, all_scores, gram, unit, coarse, coarse_relative, rounding, n, count, has_gram_row, target[i],
            noise_floor, orthogonal, nonnegative, min_new_direction, support, coefficients, no_best, no_history, room,
        )  # fmt: skip
        appended[i] = energy[i] > target[i] and score < largest_cosine * norm and n + count < atoms.shape[0]
        if appended[i]:
            atoms[n + count] = directions[i]
            count += 1


@compiled
def select_in_part(
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
    visible: Index,
    nonnegative: bool,
    best: Index,
    score: Double,
) -> None:
    """Bring the best atoms up to date with the ``n`` atoms from ``first_atom`` on: the form without a Gram.

    Row ``p`` of ``part_scores`` and of ``coarse`` belongs to the activation ``rows[p]``, for p in ``start..stop``.
    """
    all_exact = np.empty(n, np.bool_)
    all_maxima = np.empty(part_scores.shape[1], np.float32)
    for p in range(start, stop):
        i = rows[p]
        seen = min(n, visible[i] - first_atom)
        if seen <= 0:
            continue
        groups = (seen + GROUP - 1) // GROUP
        scores, maxima, exact = part_scores[p, :groups], all_maxima[:groups], all_exact[:seen]
        hide(scores, seen)
        top = group_maxima(scores, nonnegative, maxima)
        error = coarse[p] + coarse_relative * top + rounding * math.sqrt(accurate_dot(residual[i], residual[i]))
        if maxima.max() + error < score[i]:
            continue
        exact[:] = False
        atom, value, _ = select(
            scores, maxima, residual[i], atoms[first_atom:], nonnegative, exact, np.float32(error), np.float32(0)
        )
        if value > score[i]:  # equal scores: the atom of an earlier part stays
            score[i], best[i] = value, first_atom + atom


@compiled
def take_rows(
    start: int,
    stop: int,
    rows: Index,
    step: int,
    x: Single,
    atoms: Atoms,
    residual: Single,
    chosen: Index,
    score: Double,
    target: Double,
    floor: Double,
    active: Flags,
    orthogonal: bool,
    nonnegative: bool,
    min_new_direction: float,
    support: Index,
    coefficients: Double,
    inverse: Double,
    energy: Double,
    best: Single,
    history: Single,
) -> None:
    """One step of the rows' pursuits with the atoms chosen for them: the form without a Gram."""
    k = support.shape[1]
    change, scratch, weights = np.empty(k), np.empty((2, k)), np.empty(k, np.float32)
    for p in range(start, stop):
        i = rows[p]
        if best.shape[0] > 0:
            best[i, step] = np.float32(max(score[i], floor[i]))
            history[i, step, :step] = coefficients[i, :step]
        active[i] = score[i] > floor[i]
        if not active[i]:
            continue
        if orthogonal:
            active[i] = take_orthogonal(
                chosen[i], step, x[i], atoms, residual[i], support[i], coefficients[i], change, inverse[i if orthogonal else 0],
                scratch, weights, nonnegative, min_new_direction,
            )  # fmt: skip
        else:
            take_matching(chosen[i], step, atoms, residual[i], support[i], coefficients[i], change)
        energy[i] = accurate_dot(residual[i], residual[i])
        active[i] = active[i] and energy[i] > target[i] and energy[i] > floor[i] ** 2


def compile_all(half: bool = False) -> None:
    """Compile the loops for atoms in float32 (``half``: bfloat16), or load them from numba's cache, by running each once."""
    one, index, double = np.ones((1, 1), np.float32), np.zeros(1, np.int64), np.ones(1)
    atoms = np.ones((1, 1), np.uint16) if half else one
    scores, flags, cube = np.ones((1, 1, GROUP), np.float32), np.ones(1, np.bool_), np.ones((1, 1, 1))
    path = np.empty((0, 1), np.float32), np.empty((0, 1, 1), np.float32)
    pursue_rows(
        0, 1, one, atoms, scores, np.ones((1, GROUP), np.int16), 1.0, one[0], 0.0, 0.0, index + 1, double * 0, 0.0, True,
        False, 0.0, index[None].copy(), one.copy(), double.copy(), *path, index.copy(),
    )  # fmt: skip
    pursue_and_append(
        one, atoms, atoms, 0, scores, np.ones((1, GROUP), np.int16), 1.0, one[0], 0.0, 0.0, double, 1.0, 0.0, True, False, 0.0,
        1, double.copy(), flags.copy(), index.copy(),
    )  # fmt: skip
    select_in_part(
        0, 1, index, scores, 0, 1, one, atoms, one[0], 0.0, 0.0, index + 1, False, index.copy(), double.copy()
    )
    take_rows(
        0, 1, index, 0, one, atoms, one.copy(), index, double, double * 0, double * 0, flags, True, False, 0.0,
        index[None].copy(), cube[0], cube, double.copy(), *path,
    )  # fmt: skip
