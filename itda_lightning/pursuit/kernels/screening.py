"""Screened scores: kept up to date in cheap arithmetic, and exact where they could win.

A step needs the atom with the largest score ``|r . a|``, and nearly all atoms are far from it. So scores are
*screened*: they are kept up to date in cheap arithmetic whose error has a bound, and only atoms within that bound of
the best are scored again from the residual itself, in single precision and always in the same order of summation. The
winner is therefore the exact one, whatever made the screen, and codes do not depend on batches, blocks or threads.

Scores come in groups of ``GROUP`` atoms; zeros, which win no step, fill the last group.
"""

import numpy as np

from itda_lightning.pursuit.kernels.jit import Atoms, Double, Entries, Flags, Index, Single, compiled, vectorised
from itda_lightning.pursuit.kernels.masks import NUMBERS, lowest, reached
from itda_lightning.pursuit.kernels.named_arrays import Gram
from itda_lightning.pursuit.kernels.prefetching import prefetch
from itda_lightning.pursuit.kernels.sums import dot

# Atoms that share one largest score. A fixed length lets LLVM unroll the loops over a group.
GROUP = 128
# Scores from which several rows of the Gram are subtracted together: 4 KB of scores and 2 KB of each of four rows.
TILE = 1024
# Without its sign bit a float32 orders as the integer of the same bits; only integer maxima become vector instructions.
WITHOUT_SIGN = np.int32(0x7FFFFFFF)


@vectorised
def larger(a: np.int32, b: np.int32) -> np.int32:
    """Return the larger number; numba's ``max`` would widen both to 64 bits."""
    return a if a > b else b


@vectorised
def signed_bits(score: np.float32) -> np.int32:
    """Return the bits of a score: a negative integer for a negative score, else in the order of scores."""
    return np.float32(score).view(np.int32)


@vectorised
def magnitude_bits(score: np.float32) -> np.int32:
    """Return the bits of ``|score|``."""
    return np.int32(np.float32(score).view(np.int32) & WITHOUT_SIGN)


@vectorised
def as_number(bits: np.int32) -> np.float32:
    """Return the float32 of these bits."""
    return np.int32(bits).view(np.float32)


@vectorised
def group_maxima(scores: Single, nonnegative: bool, maxima: Single) -> np.float32:
    """Fill in the largest score of every group, at least 0; return the largest |score| of all."""
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
    """Subtract ``weight * row`` from the scores, and fill in the largest |score| of every group."""
    for group in range(scores.shape[0]):
        bits = np.int32(0)
        for q in range(GROUP):
            score = np.float32(scores[group, q] - weight * np.float32(row[group, q]))
            scores[group, q] = score
            bits = larger(bits, magnitude_bits(score))
        maxima[group] = as_number(bits)


@vectorised
def subtract_rows(scores: Single, gram: Entries, rows: Index, weights: Single) -> None:
    """Subtract ``sum_s weights[s] * gram[rows[s]]`` from the scores, four rows and one cached tile at a time."""
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
def bar_of(score: np.float32, error: np.float32) -> np.int32:
    """Return bits that no screened score has fewer of unless, with the error, it is below the score."""
    bar = np.float32(score * (1 - 2.0**-20) - error)
    return np.int32(bar.view(np.int32) - 1) if bar > 0 else np.int32(-(2**31))


@compiled
def select_among(
    scores: Single,
    maxima: Single,
    residual: Single,
    atoms: Atoms,
    gram: Entries,
    nonnegative: bool,
    exact: Flags,
    coarse: np.float32,
    fine: np.float32,
) -> tuple[int, np.float32, int]:
    """Return the atom with the largest exact score (the lowest index of equal ones), the score, and the number tried.

    The most promising atom wins nearly always; then its row of the Gram is read, so that is asked for beforehand.

    ``coarse`` bounds the error of a screened score, ``fine`` that of one that was computed exactly at an earlier step
    (``exact``) and updated since. Scores that are computed again are written back.
    """
    n, eligible, flat = exact.shape[0], np.int32(-1) if nonnegative else WITHOUT_SIGN, scores.reshape(-1)
    top = 0
    for group in range(1, maxima.shape[0]):
        if maxima[group] > maxima[top]:
            top = group
    first = n - 1
    for start in range(top * GROUP, (top + 1) * GROUP, NUMBERS):
        equal = reached(flat, start, eligible, signed_bits(maxima[top]))
        if equal:
            first = min(start + lowest(equal), n - 1)
            break
    prefetch(atoms, first)
    prefetch(gram, first)
    score, best = dot(residual, atoms[first]), first
    flat[first], exact[first], examined = score, True, 1
    score = score if nonnegative else abs(score)
    for step in range(-1, maxima.shape[0]):
        # The group of the most promising atom first: the best score so far is a bar for the rest.
        group = top if step < 0 else step
        if maxima[group] + coarse < score or step == top:
            continue
        for start in range(group * GROUP, min(n, (group + 1) * GROUP), NUMBERS):
            mask = reached(flat, start, eligible, bar_of(score, coarse))
            while mask:
                atom = start + lowest(mask)
                mask &= mask - np.uint64(1)
                if atom >= n:
                    break
                screened = flat[atom] if nonnegative else abs(flat[atom])
                if screened + coarse < score or (exact[atom] and screened + fine < score) or atom == first:
                    continue
                candidate = dot(residual, atoms[atom])
                flat[atom], exact[atom] = candidate, True
                examined += 1
                candidate = candidate if nonnegative else abs(candidate)
                if candidate > score or (candidate == score and atom < best):
                    score, best = candidate, atom
    return best, score, examined


@compiled
def hide(scores: Single, visible: int) -> None:
    """Set the scores behind the first ``visible`` atoms in their last group to zero."""
    if visible % GROUP:
        scores[visible // GROUP, visible % GROUP :] = 0


@compiled
def update_scores(
    scores: Single,
    maxima: Single,
    gram: Gram,
    support: Index,
    change: Double,
    weights: Single,
    visible: int,
    nonnegative: bool,
) -> None:
    """Subtract ``sum_s change[s] * gram[support[s]]`` from the scores and bring the maxima up to date."""
    for s in range(support.shape[0]):
        weights[s] = np.float32(change[s] * gram.unit)
    if support.shape[0] == 1:
        row = gram.entries[support[0]].reshape(-1, GROUP)
        subtract_row(scores, row[: scores.shape[0]], weights[0], maxima)
        # Hidden scores no longer count, nor do negative ones if they cannot win.
        first = 0 if nonnegative else visible // GROUP
    else:
        subtract_rows(scores.reshape(-1), gram.entries, support, weights[: support.shape[0]])
        first = 0
    hide(scores, visible)
    group_maxima(scores[first:], nonnegative, maxima[first:])
