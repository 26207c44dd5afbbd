"""The compiled loops of both pursuits: one activation at a time, so that its scores stay in the cache.

A step needs the atom with the largest score ``|r . a|``, and nearly all atoms are far from it. So scores are *screened*: they
are kept up to date in cheap arithmetic whose error has a bound, and only atoms within that bound of the best are scored
again from the residual itself, in single precision and always in the same order of summation. The winner is therefore the
exact one, whatever the screen was made of, and codes do not depend on batches, blocks or threads.

Scores come in groups of ``GROUP`` atoms, the rest of the last group filled with zeros, which win no step.

Atoms are float32, or the bits of bfloat16 in 16-bit integers, which become float32 on their way into a sum. All loops are in
this one file because numba's cache on disk notices changes of a function's own file only.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from itda_lightning.pursuit.sums import accurate_dot, dot, single

Single = NDArray[np.float32]
Double = NDArray[np.float64]
Entries = NDArray[np.int16]
Atoms = NDArray[np.float32] | NDArray[np.uint16]
Index = NDArray[np.int64]
Flags = NDArray[np.bool_]

# Atoms whose largest score is remembered together. A fixed length lets LLVM unroll the loops over a group.
GROUP = 128
# Scores that several rows of the Gram are taken from together: 4 KB of scores and 2 KB of each of four rows.
TILE = 1024
# Without its sign bit a float32 orders as the integer of the same bits, and only integer maxima become vector instructions.
WITHOUT_SIGN = np.int32(0x7FFFFFFF)


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """Compile a function when it is first called, for use without the interpreter's lock, and keep the result on disk."""
    # Under pytest every function of the package comes wrapped in a check of its annotations, which is not for numba.
    return njit(nogil=True, cache=True, **options)(inspect.unwrap(function))


def vectorised(function: Callable[..., Any]) -> Any:
    """``compiled``, and arithmetic may be reordered for speed, which is for screens only; there are no infinities or NaNs."""
    return compiled(function, fastmath={"reassoc", "contract", "nnan", "nsz", "arcp"})


@vectorised
def larger(a: np.int32, b: np.int32) -> np.int32:
    """The larger one; numba's ``max`` would widen both to 64 bits."""
    return a if a > b else b


@vectorised
def signed_bits(score: np.float32) -> np.int32:
    """The bits of a score: a negative integer for a negative score, else in the order of scores."""
    return np.float32(score).view(np.int32)


@vectorised
def magnitude_bits(score: np.float32) -> np.int32:
    """The bits of ``|score|``."""
    return np.int32(np.float32(score).view(np.int32) & WITHOUT_SIGN)


@vectorised
def as_number(bits: np.int32) -> np.float32:
    """The float32 of these bits."""
    return np.int32(bits).view(np.float32)


@compiled
def subtract(a: Single, row: Atoms, weight: np.float32) -> None:
    """Take ``weight * row`` from a."""
    for q in range(a.shape[0]):
        a[q] -= weight * single(row[q])


@vectorised
def group_maxima(scores: Single, nonnegative: bool, maxima: Single) -> np.float32:
    """Fill in the largest score of every group, not below 0; the largest |score| of all is returned."""
    top = np.float32(0)
    for group in range(scores.shape[0]):
        bits = np.int32(0)
        for q in range(GROUP):
            bits = larger(bits, magnitude_bits(scores[group, q]))
        top = max(top, as_number(bits))
        if nonnegative:
            bits = np.int32(0)
            for q in range(GROUP):
                bits = larger(bits, signed_bits(scores[group, q]))  # negative numbers are negative integers
        maxima[group] = as_number(bits)
    return top


@vectorised
def subtract_row(scores: Single, row: Entries, weight: np.float32, maxima: Single) -> None:
    """Take ``weight * row`` from the scores, and fill in the largest |score| of every group."""
    for group in range(scores.shape[0]):
        bits = np.int32(0)
        for q in range(GROUP):
            score = np.float32(scores[group, q] - weight * np.float32(row[group, q]))
            scores[group, q] = score
            bits = larger(bits, magnitude_bits(score))
        maxima[group] = as_number(bits)


@vectorised
def subtract_rows(scores: Single, gram: Entries, rows: Index, weights: Single) -> None:
    """Take ``sum_s weights[s] * gram[rows[s]]`` from the scores: a tile at a time, which stays in the cache, by four rows."""
    count = rows.shape[0]
    for low in range(0, scores.shape[0], TILE):
        high = min(scores.shape[0], low + TILE)
        part = scores[low:high]
        for s in range(0, count - 3, 4):
            row0, row1 = gram[rows[s], low:high], gram[rows[s + 1], low:high]
            row2, row3 = gram[rows[s + 2], low:high], gram[rows[s + 3], low:high]
            w0, w1, w2, w3 = weights[s], weights[s + 1], weights[s + 2], weights[s + 3]
            for q in range(part.shape[0]):
                near = w0 * np.float32(row0[q]) + w1 * np.float32(row1[q])
                part[q] -= near + (w2 * np.float32(row2[q]) + w3 * np.float32(row3[q]))
        for s in range(count // 4 * 4, count):
            row0, w0 = gram[rows[s], low:high], weights[s]
            for q in range(part.shape[0]):
                part[q] -= w0 * np.float32(row0[q])


@compiled
def subtract_atoms(residual: Single, atoms: Atoms, support: Index, weights: Single) -> None:
    """Take ``sum_s weights[s] * atoms[support[s]]`` from the residual, four atoms at a time."""
    count = support.shape[0]
    for s in range(0, count - 3, 4):
        atom0, atom1 = atoms[support[s]], atoms[support[s + 1]]
        atom2, atom3 = atoms[support[s + 2]], atoms[support[s + 3]]
        w0, w1, w2, w3 = weights[s], weights[s + 1], weights[s + 2], weights[s + 3]
        for q in range(residual.shape[0]):
            near = w0 * single(atom0[q]) + w1 * single(atom1[q])
            residual[q] -= near + (w2 * single(atom2[q]) + w3 * single(atom3[q]))
    for s in range(count // 4 * 4, count):
        subtract(residual, atoms[support[s]], weights[s])


@compiled
def inner_products(atom: Atoms, atoms: Atoms, support: Index, result: Double) -> None:
    """The inner products of an atom with those of the support, in double precision."""
    for s in range(support.shape[0]):
        result[s] = accurate_dot(atom, atoms[support[s]])


@compiled
def combine_rows(result: Double, rows: Double, weights: Double, scale: float) -> None:
    """``scale * sum_s weights[s] * rows[s]``, of which row s has s + 1 entries."""
    result[:] = 0.0
    for s in range(weights.shape[0]):
        weight = scale * weights[s]
        for p in range(s + 1):
            result[p] += weight * rows[s, p]


@compiled
def products_with_rows(rows: Double, vector: Double, result: Double) -> float:
    """The products of a lower triangular matrix's rows with a vector, and the sum of their squares."""
    squares = 0.0
    for s in range(vector.shape[0]):
        result[s] = accurate_dot(rows[s, : s + 1], vector[: s + 1])
        squares += result[s] * result[s]
    return squares


@compiled
def select(
    scores: Single,
    maxima: Single,
    residual: Single,
    atoms: Atoms,
    nonnegative: bool,
    exact: Flags,
    coarse: np.float32,
    fine: np.float32,
) -> tuple[int, np.float32, int]:
    """The atom with the largest exact score, the lowest index where several are equal, that score, and how many were looked at.

    ``coarse`` bounds the error of a screened score, ``fine`` that of one which was computed exactly at an earlier step
    and followed the updates since, as ``exact`` says. Scores that are computed again are written back.
    """
    n = exact.shape[0]
    top = 0
    for group in range(1, maxima.shape[0]):
        if maxima[group] > maxima[top]:
            top = group
    best = top * GROUP
    for q in range(GROUP):
        screened = scores[top, q] if nonnegative else abs(scores[top, q])
        if screened == maxima[top]:
            best = top * GROUP + q
            break
    first = min(best, n - 1)
    best, score, looked_at = first, np.float32(-np.inf), 0
    for step in range(-1, maxima.shape[0]):
        # The most promising atom first, then its group, then the others: the best score so far is a bar for the rest.
        group = top if step < 0 else (top + step) % maxima.shape[0]
        if step >= 0 and maxima[group] + coarse < score:
            continue
        low, high = (first, first + 1) if step < 0 else (group * GROUP, min(n, (group + 1) * GROUP))
        looked_at += high - low
        for atom in range(low, high):
            q = atom - group * GROUP
            screened = scores[group, q] if nonnegative else abs(scores[group, q])
            if screened + coarse < score or (exact[atom] and screened + fine < score) or (step >= 0 and atom == first):
                continue
            candidate = dot(residual, atoms[atom])
            scores[group, q], exact[atom] = candidate, True
            candidate = candidate if nonnegative else abs(candidate)
            if candidate > score or (candidate == score and atom < best):
                score, best = candidate, atom
    return best, score, looked_at


@compiled
def hide(scores: Single, visible: int) -> None:
    """Zero what lies behind the first ``visible`` atoms in their last group."""
    if visible % GROUP:
        scores[visible // GROUP, visible % GROUP :] = 0


@compiled
def update_scores(
    scores: Single, gram: Entries, unit: float, support: Index, change: Double, weights: Single, visible: int,
    nonnegative: bool, maxima: Single,
) -> None:  # fmt: skip
    """Take ``sum_s change[s] * gram[support[s]]`` from the scores and bring the maxima up to date."""
    for s in range(support.shape[0]):
        weights[s] = np.float32(change[s] * unit)
    if support.shape[0] == 1:
        row = gram[support[0]].reshape(-1, GROUP)
        subtract_row(scores, row[: scores.shape[0]], weights[0], maxima)
        # What was hidden counts no more, and neither do negative scores where they cannot win.
        first = 0 if nonnegative else visible // GROUP
    else:
        subtract_rows(scores.reshape(-1), gram, support, weights[: support.shape[0]])
        first = 0
    hide(scores, visible)
    group_maxima(scores[first:], nonnegative, maxima[first:])


@compiled
def take_matching(
    atom: int, step: int, atoms: Atoms, residual: Single, support: Index, coefficients: Double, change: Double
) -> None:
    """One step of matching pursuit."""
    coefficient = accurate_dot(residual, atoms[atom])
    support[step], coefficients[step], change[step] = atom, coefficient, coefficient
    subtract(residual, atoms[atom], np.float32(coefficient))


@compiled
def take_orthogonal(
    atom: int,
    step: int,
    x: Single,
    atoms: Atoms,
    residual: Single,
    support: Index,
    coefficients: Double,
    change: Double,
    inverse: Double,
    scratch: Double,
    weights: Single,
    nonnegative: bool,
    min_new_direction: float,
) -> bool:
    """One step of orthogonal matching pursuit; false, and nothing is changed, where the new atom cannot be taken.

    ``inverse`` holds the inverse of the Cholesky factor of the support's Gram matrix, whose rows turn its atoms into
    orthonormal directions; ``change`` receives what the step adds to each coefficient; ``scratch`` has room
    for two rows and ``weights`` for one.
    """
    for s in range(step):
        if support[s] == atom:
            return False
    inner, along = scratch[0, :step], scratch[1, :step]
    inner_products(atoms[atom], atoms, support[:step], inner)
    new_direction = accurate_dot(atoms[atom], atoms[atom]) - products_with_rows(inverse, inner, along)
    if new_direction <= min_new_direction:
        return False
    length = math.sqrt(new_direction)
    row = inverse[step]
    combine_rows(row[:step], inverse, along, -1.0 / length)
    row[step] = 1.0 / length
    # What the earlier directions explain stays so: only the new one is added.
    projection = accurate_dot(residual, atoms[atom]) / length
    coefficients[step] = 0.0
    for s in range(step + 1):
        change[s] = projection * row[s]
        if nonnegative and coefficients[s] + change[s] < 0:
            return False
    support[step] = atom
    for s in range(step + 1):
        coefficients[s] += change[s]
        weights[s] = np.float32(coefficients[s])
    residual[:] = x
    subtract_atoms(residual, atoms, support[: step + 1], weights[: step + 1])
    return True


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
