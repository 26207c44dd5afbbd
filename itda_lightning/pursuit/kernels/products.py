"""Find the best atoms of a step among the products of residuals with a part of the atoms, as they were computed.

Products screen the atoms (see ``screening``) and are read once, so they stay numbers of float32 or bfloat16 and are
compared as integers of the same bits. Without its sign bit a number orders as that integer does; with it, negative
numbers are negative integers, which win no step. So ``bits & eligible`` is compared, signed or ``nonnegative``.
"""

from typing import Any

import numpy as np

from itda_lightning.pursuit.kernels.jit import Bits, Double, Index, compiled, vectorised
from itda_lightning.pursuit.kernels.masks import NUMBERS, lowest, reached
from itda_lightning.pursuit.kernels.named_arrays import Choice, Problem, Products, Progress
from itda_lightning.pursuit.kernels.prefetching import prefetch
from itda_lightning.pursuit.kernels.screening import GROUP, as_number, larger
from itda_lightning.pursuit.kernels.sums import dot


@vectorised
def largest(bits: Bits, eligible: np.int32) -> Any:
    """Return the largest of the integers, or 0, in their own width: the narrower, the more of them fit a register."""
    kind = bits.dtype.type
    top = kind(0)
    for q in range(bits.shape[0]):
        top = larger(top, kind(bits[q] & eligible))
    return top


@compiled
def number(bits: np.int32, shift: int) -> np.float32:
    """Return the number of these bits: the ``32 - shift`` upper ones of a float32."""
    return as_number(np.int32(np.int64(bits) << shift))


@compiled
def bar_of(score: float, shift: int) -> Any:
    """Return the smallest integer that bits of at least this score may be."""
    return np.int64(np.float32(score).view(np.int32)) >> shift if score > 0 else np.int64(-(2 ** (31 - shift)))


@compiled
def at_least(bits: Bits, start: int, eligible: np.int32, bar: int) -> np.uint64:
    """Return which of the next numbers are at least the bar, as the bits of an integer; there may be fewer."""
    kind = bits.dtype.type
    if start + NUMBERS <= bits.shape[0]:
        return reached(bits, start, kind(eligible), kind(bar))
    mask = np.uint64(0)
    for q in range(bits.shape[0] - start):
        if (bits[start + q] & eligible) >= bar:
            mask |= np.uint64(1) << np.uint64(q)
    return mask


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


@compiled
def contains(support: Index, atom: int) -> bool:
    """Check if the atom is in the support."""
    found = False
    for taken in support:
        found |= taken == atom
    return found


@compiled
def list_best(
    bits: Bits, maxima: Bits, eligible: np.int32, shift: int, first: int, hidden: Index, atoms: Index, scores: Double
) -> None:
    """Fill in the best screened atoms, but for the hidden ones, and their scores; ``maxima`` are those of groups."""
    last = scores.shape[0] - 1
    for group in range(maxima.shape[0]):
        if number(maxima[group], shift) <= scores[last]:
            continue
        for start in range(group * GROUP, min(bits.shape[0], (group + 1) * GROUP), NUMBERS):
            mask = at_least(bits, start, eligible, bar_of(scores[last], shift))
            while mask:
                place = start + lowest(mask)
                mask &= mask - np.uint64(1)
                value = number(bits[place] & eligible, shift)
                if value > scores[last] and not contains(hidden, first + place):
                    insert(place, value, atoms, scores)


@compiled
def list_at_least(
    bits: Bits, maxima: Bits, eligible: np.int32, bar: int, first: int, hidden: Index, places: Index
) -> int:
    """Fill in the places of the numbers that are at least the bar, but for hidden atoms; return how many these are."""
    count = 0
    for group in range(maxima.shape[0]):
        if maxima[group] < bar:
            continue
        for start in range(group * GROUP, min(bits.shape[0], (group + 1) * GROUP), NUMBERS):
            mask = at_least(bits, start, eligible, bar)
            while mask:
                place = start + lowest(mask)
                mask &= mask - np.uint64(1)
                if not contains(hidden, first + place):
                    places[count] = place
                    count += 1
    return count


@compiled
def select(start: int, stop: int, problem: Problem, products: Products, progress: Progress, choice: Choice) -> None:
    """Bring the lists of the best atoms up to date with a part of the atoms.

    Row ``p`` of the products belongs to the activation ``progress.rows[p]``, for p in ``start..stop``.
    """
    count, first, width = choice.atoms.shape[1], products.first, products.bits.shape[1]
    last, screened_atoms, screened = count - 1, np.empty(count, np.int64), np.empty(count)
    all_maxima, candidates = np.empty((width + GROUP - 1) // GROUP, products.bits.dtype), np.empty(width, np.int64)
    kind, shift = products.bits.dtype.type, 32 - 8 * products.bits.itemsize
    eligible = kind(-1) if problem.nonnegative else kind((1 << (31 - shift)) - 1)
    for p in range(start, stop):
        i = progress.rows[p]
        scores, residual = choice.scores[i], progress.residual[i]
        hidden = progress.support[i] if products.without_support else progress.support[i, :0]
        seen = min(width, problem.visible[i] - first)
        if seen <= 0:
            continue
        bits, maxima = products.bits[p, :seen], all_maxima[: (seen + GROUP - 1) // GROUP]
        for group in range(maxima.shape[0]):
            maxima[group] = largest(bits[group * GROUP : min(seen, (group + 1) * GROUP)], eligible)
        top = number(largest(maxima, eligible), shift)
        # A little more than the bound: an exact score that is positive may be screened as a negative one.
        error = 1.01 * (products.error[p] + problem.rounding * np.sqrt(progress.energy[i])) + products.relative * top
        if top + error < scores[last]:
            continue
        screened_atoms[:], screened[:] = -1, 0.0
        if count == 1 and not products.without_support:
            screened[0] = top  # which is all that the list would have
        else:
            list_best(bits, maxima, eligible, shift, first, hidden, screened_atoms, screened)
        # The best exact scores are at least the best screened ones less the error, so nothing much below those can win.
        bar = bar_of(max(screened[last] - 2 * error, scores[last] - error), shift)
        found = list_at_least(bits, maxima, eligible, bar, first, hidden, candidates)
        for c in range(found):
            if c + 1 < found:
                prefetch(problem.atoms, first + candidates[c + 1])
            atom = first + candidates[c]
            if (bits[candidates[c]] & eligible) >= bar:
                exact = dot(residual, problem.atoms[atom])
                insert(atom, exact if problem.nonnegative else abs(exact), choice.atoms[i], scores)
                bar = max(bar, bar_of(scores[last] - error, shift))
