"""Both pursuits in the Gram form as one Triton kernel; ``cuda.py`` calls it. Importing this module needs Triton.

A program encodes one activation, through all steps of its pursuit, so one launch encodes a batch, and a row that ends
early costs nothing more. A step subtracts the Gram's rows of the chosen atoms from the row's scores and finds the next
winner. Scores of a dictionary that a program's registers can hold stay there through all steps (RESIDENT); those of a
larger one pass through them in blocks.

Threads of a program share through global memory what a later step needs, so every step ends in a barrier. Between two
barriers no address is both read and written by different threads: a block has at least one score per thread, and the
codes being changed are carried in registers.
"""
# ruff: noqa: N803  constants of a compilation are in capitals, as everywhere in Triton

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def strongest(
    alpha, gram, gram_stride, support, coefficients, first, last, seen, width,
    KEEP: tl.constexpr, NONNEGATIVE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Return the largest score, its correlation, and its atom; the lowest index if several are equal.

    Scores are ``alpha[j] - sum_s coefficients[s] * gram[support[s], j]`` for s in ``first..last`` and the first
    ``seen`` atoms j; KEEP writes them back to alpha. If none is above 0, the score is 0 and the atom meaningless. Rows
    are read up to ``width``, whatever they hold there: a mask that could end anywhere would forbid wide loads.
    """
    lane = tl.arange(0, BLOCK)
    value = tl.zeros((BLOCK,), tl.float32)
    atom = lane + seen
    for start in range(0, seen, BLOCK):
        column = start + lane
        inside = column < width
        score = tl.load(alpha + column, mask=inside, other=0.0)
        for s in range(first, last):
            row = gram + tl.load(support + s) * gram_stride
            weight = tl.load(coefficients + s).to(tl.float32)
            score -= weight * tl.load(row + column, mask=inside, other=0.0).to(tl.float32)
        if KEEP:
            tl.store(alpha + column, score, mask=inside)
        score = tl.where(column < seen, score, 0.0)
        # Each lane keeps its own best: one reduction per step instead of one per block, and earlier atoms stay in ties.
        better = score > value if NONNEGATIVE else tl.abs(score) > tl.abs(value)
        value = tl.where(better, score, value)
        atom = tl.where(better, column, atom)
    rank = value if NONNEGATIVE else tl.abs(value)
    top = tl.max(rank, axis=0)
    winner = tl.min(tl.where(rank == top, atom, seen), axis=0)
    return top, tl.sum(tl.where(atom == winner, value, 0.0), axis=0), winner


@triton.jit
@no_type_check
def strongest_of(scores, seen, NONNEGATIVE: tl.constexpr, BLOCK: tl.constexpr):
    """Return what ``strongest`` does, of scores (BLOCK,) of all atoms."""
    column = tl.arange(0, BLOCK)
    rank = tl.maximum(scores, 0.0) if NONNEGATIVE else tl.abs(scores)
    rank = tl.where(column < seen, rank, 0.0)
    top, winner = tl.max(rank, axis=0, return_indices=True, return_indices_tie_break_left=True)
    return top, tl.sum(tl.where(column == winner, scores, 0.0), axis=0), winner


@triton.jit
@no_type_check
def match_rows(
    alpha, gram, visible, energy, target, floor, support, coefficients, best, history, width, gram_stride, k,
    NONNEGATIVE: tl.constexpr, PATH: tl.constexpr, BLOCK: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Encode one row as ``MatchingPursuit.run`` does, with all scores in registers; arguments as of ``pursue_rows``.

    Nothing that a program stores is read again, so its steps need no barrier.
    """
    index = tl.program_id(0).to(tl.int64)
    support += index * k
    coefficients += index * k
    best += index * k
    history += index * k * k
    seen = tl.load(visible + index).to(tl.int32)
    left, limit, noise = tl.load(energy + index), tl.load(target + index), tl.load(floor + index)
    column, lane = tl.arange(0, BLOCK), tl.arange(0, K)
    scores = tl.load(alpha + index * width + column, mask=column < width, other=0.0)
    code = tl.zeros((K,), tl.float32)
    step = 0
    going = left > limit
    while going & (step < k):
        top, score, atom = strongest_of(scores, seen, NONNEGATIVE, BLOCK)
        if PATH:
            tl.store(best + step, tl.maximum(top, noise.to(tl.float32)))
            tl.store(history + step * k + lane, code, mask=lane < step)
        going = top.to(tl.float64) > noise
        atom = tl.where(going, atom, 0).to(tl.int64)
        row = gram + atom * gram_stride
        square_norm = tl.load(row + atom).to(tl.float64)
        amount = tl.where(going, score, 0.0)
        scores -= amount * tl.load(row + column, mask=column < width, other=0.0).to(tl.float32)
        code = tl.where(lane == step, amount, code)
        tl.store(support + step, atom, mask=going)
        tl.store(coefficients + step, amount.to(tl.float64), mask=going)
        left -= amount.to(tl.float64) * amount.to(tl.float64) * (2.0 - square_norm)  # atoms are not quite of unit norm
        going = going & (left > limit)
        step += 1


@triton.jit
@no_type_check
def new_direction(gram, gram_stride, inverse, atom, picked, square_norm, step, k, K: tl.constexpr):
    """Return row ``step`` (K,) of the inverse of the Cholesky factor of the support's Gram, and its squared length.

    Rows of the inverse turn correlations into coefficients without a triangular solve: ``inverse[s] . inner`` is the
    factor's own entry.
    """
    lane = tl.arange(0, K)
    inner = tl.load(gram + picked * gram_stride + atom, mask=lane < step, other=0.0).to(tl.float64)
    row = tl.where(lane == step, 1.0, 0.0).to(tl.float64)
    length = square_norm
    for s in range(0, step):
        other = tl.load(inverse + s * k + lane, mask=lane < k, other=0.0)
        share = tl.sum(other * inner, axis=0)
        row -= share * other
        length -= share * share
    return row, length


@triton.jit
@no_type_check
def pursue_rows(
    alpha, gram, inverse, visible, energy, target, floor, support, coefficients, best, history, width, gram_stride, k,
    ORTHOGONAL: tl.constexpr, NONNEGATIVE: tl.constexpr, PATH: tl.constexpr, MIN_NEW_DIRECTION: tl.constexpr,
    RESIDENT: tl.constexpr, BLOCK: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Encode one row as ``MatchingPursuit.run`` or ``OrthogonalMatchingPursuit.run`` does.

    ``alpha`` (batch, width) holds the inner products of activations and atoms; a matching pursuit in blocks writes to
    it. With RESIDENT a block has room for all atoms.
    ``inverse`` (batch, k, k) is scratch. Of each row of the Gram, in float32 or float16, ``width`` entries can be read.
    Support and coefficients (float64) come filled with -1 and 0; ``best`` and ``history`` count with PATH only.
    """
    index = tl.program_id(0).to(tl.int64)
    alpha += index * width
    inverse += index * k * k
    support += index * k
    coefficients += index * k
    best += index * k
    history += index * k * k
    seen = tl.load(visible + index).to(tl.int32)
    left, limit, noise = tl.load(energy + index), tl.load(target + index), tl.load(floor + index)
    lane = tl.arange(0, K)
    picked = tl.full((K,), -1, tl.int64)
    code = tl.zeros((K,), tl.float64)
    step = 0
    going = left > limit
    column = tl.arange(0, BLOCK)
    while going & (step < k):
        # Scores of a matching pursuit go on from the last step's; others begin anew, since all coefficients changed.
        first = 0 if ORTHOGONAL else tl.maximum(step - 1, 0)
        if RESIDENT:
            scores = tl.load(alpha + column, mask=column < width, other=0.0)
            for s in range(first, step):
                row = gram + tl.load(support + s) * gram_stride
                weight = tl.load(coefficients + s).to(tl.float32)
                scores -= weight * tl.load(row + column, mask=column < width, other=0.0).to(tl.float32)
            top, score, atom = strongest_of(scores, seen, NONNEGATIVE, BLOCK)
        else:
            top, score, atom = strongest(
                alpha, gram, gram_stride, support, coefficients, first, step, seen, width,
                not ORTHOGONAL, NONNEGATIVE, BLOCK,
            )  # fmt: skip
        if PATH:
            tl.store(best + step, tl.maximum(top, noise.to(tl.float32)))
            tl.store(history + step * k + lane, code.to(tl.float32), mask=lane < step)
        going = top.to(tl.float64) > noise
        if going:
            square_norm = tl.load(gram + atom.to(tl.int64) * (gram_stride + 1)).to(tl.float64)
            amount = score.to(tl.float64)
            if ORTHOGONAL:
                row, length = new_direction(gram, gram_stride, inverse, atom, picked, square_norm, step, k, K)
                going = (length > MIN_NEW_DIRECTION) & (tl.sum((picked == atom).to(tl.int32), axis=0) == 0)
                row /= tl.sqrt(tl.maximum(length, MIN_NEW_DIRECTION))
                tl.store(inverse + step * k + lane, row, mask=lane < k)
                amount /= tl.sqrt(tl.maximum(length, MIN_NEW_DIRECTION))
                solved = code + amount * row
                gained = amount * amount
                if NONNEGATIVE:
                    going = going & (tl.min(solved, axis=0) >= 0)
            else:
                solved = tl.where(lane == step, amount, code)
                gained = amount * amount * (2.0 - square_norm)  # atoms are not quite of unit norm
            if going:  # else the row keeps its last code
                code = solved
                picked = tl.where(lane == step, atom.to(tl.int64), picked)
                tl.store(support + step, atom.to(tl.int64))
                tl.store(coefficients + lane, code, mask=lane < k)
                left -= gained
                going = left > limit
        tl.debug_barrier()
        step += 1
