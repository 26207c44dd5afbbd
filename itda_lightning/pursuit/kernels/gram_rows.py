"""The compiled loops of single-step pursuits with a Gram: one activation at a time, whose scores stay in the cache."""

import math
from typing import Any

import numpy as np

from itda_lightning.pursuit.kernels.jit import Atoms, Entries, Flags, Index, Single, compiled
from itda_lightning.pursuit.kernels.named_arrays import Code, Gram, Path, Problem, Room, Screen, Work
from itda_lightning.pursuit.kernels.screening import GROUP, group_maxima, hide, select_among, update_scores
from itda_lightning.pursuit.kernels.steps import copy_to, take_matching, take_orthogonal
from itda_lightning.pursuit.kernels.sums import accurate_dot, dot


@compiled
def fill_gram_row(atoms: Atoms, atom: int, visible: int, row: Entries, unit: float) -> None:
    """Fill in the inner products of one atom with the first ``visible`` ones."""
    for other in range(visible):
        row[other] = np.int16(np.rint(dot(atoms[atom], atoms[other]) / np.float32(unit)))


@compiled
def select_appended(
    residual: Single, atoms: Atoms, start: int, stop: int, nonnegative: bool, best: int, score: np.float32
) -> tuple[int, np.float32]:
    """Return the best of the atoms ``start..stop`` and its score, unless the score so far is as good."""
    for atom in range(start, stop):
        own = dot(residual, atoms[atom])
        own = own if nonnegative else abs(own)
        if own > score:
            best, score = atom, own
    return best, score


@compiled
def room_for_one(d: int, k: int, groups: int, appended: int) -> Any:
    """Allocate the memory of the pursuit of one activation, behind at most ``appended`` new atoms."""
    work = Work(np.empty(k), np.empty((2, k)), np.empty(k, np.float32), np.empty((k, k)))
    exact, maxima = np.empty(groups * GROUP, np.bool_), np.empty(groups, np.float32)
    return Room(np.empty(d, np.float32), exact, maxima, np.empty(k), np.zeros(appended, np.bool_), work)


@compiled
def pursue_row(
    i: int, appended: int, problem: Problem, screen: Screen, gram: Gram, code: Code, path: Path, room: Room
) -> tuple[float, int]:
    """Encode row ``i``; return its first score and the number of atoms that no screen could rule out.

    Besides the visible atoms there are ``appended`` ones behind the screened ones, which are always scored from the
    residual; if one wins, its row of the Gram is filled in.
    """
    x, atoms, nonnegative, noise_floor = problem.x[i], problem.atoms, problem.nonnegative, problem.noise_floor
    visible, target, rounding = problem.visible[i], problem.target[i], problem.rounding
    residual, found, work, unit = room.residual, room.coefficients, room.work, gram.unit
    change, weights = work.change, work.weights
    support, coefficients, steps = code.support[i], code.coefficients[i], code.support.shape[1]
    energy = accurate_dot(x, x)
    norm, moved, first_score, examined = math.sqrt(energy), 0.0, 0.0, 0
    groups = (visible + GROUP - 1) // GROUP
    scores, maxima, exact = screen.scores[i, :groups], room.maxima[:groups], room.exact[:visible]
    copy_to(residual, x)
    exact[:] = False
    hide(scores, visible)
    start_error = screen.error[i] + screen.relative * group_maxima(scores, nonnegative, maxima)
    for step in range(steps):
        if energy <= target:
            break
        atom, score = 0, np.float32(0)
        if energy > (noise_floor * norm) ** 2:
            if visible > 0:
                fine = rounding * (norm + moved) + unit * moved
                coarse = np.float32(start_error + fine)
                atom, score, tried = select_among(
                    scores, maxima, residual, atoms, gram.entries, nonnegative, exact, coarse, np.float32(fine)
                )
                examined += tried
            if appended > 0:
                atom, score = select_appended(residual, atoms, visible, visible + appended, nonnegative, atom, score)
        if step == 0:
            first_score = float(score)
        if path.best.shape[0] > 0:
            path.best[i, step] = np.float32(max(float(score), noise_floor * norm))
            copy_to(path.history[i, step], found[:step])
        if score <= noise_floor * norm:
            break
        first = 0
        if problem.orthogonal:
            if not take_orthogonal(i, atom, step, problem, residual, support, found, work):
                break
        else:
            first = step
            take_matching(atom, step, atoms, residual, support, found, change)
        for s in range(first, step + 1):
            coefficients[s] = np.float32(found[s])
            moved += abs(change[s])
        energy = accurate_dot(residual, residual)
        if step + 1 < steps and energy > target and visible > 0:
            if atom >= visible and not room.has_gram_row[atom - visible]:
                fill_gram_row(atoms, atom, visible, gram.entries[atom], unit)
                room.has_gram_row[atom - visible] = True
            used = slice(first, step + 1)
            update_scores(scores, maxima, gram, support[used], change[used], weights, visible, nonnegative)
    code.energy[i] = energy
    return first_score, examined


@compiled
def pursue_rows(
    start: int, stop: int, problem: Problem, screen: Screen, gram: Gram, code: Code, path: Path, examined: Index
) -> None:
    """Encode the rows ``start..stop``; ``examined`` gets the number of atoms that no screen could rule out."""
    none = np.int64(0)  # for a literal 0 numba would compile the pursuit once more
    room = room_for_one(problem.x.shape[1], code.support.shape[1], screen.scores.shape[1], none)
    for i in range(start, stop):
        _, examined[i] = pursue_row(i, none, problem, screen, gram, code, path, room)


@compiled
def pursue_and_append(
    problem: Problem,
    directions: Atoms,
    screen: Screen,
    gram: Gram,
    code: Code,
    largest_cosine: float,
    appended: Flags,
    examined: Index,
) -> None:
    """Encode one row after another; what leaves more energy than its target becomes an atom for those after it.

    Row ``i`` of ``directions`` is appended behind the screened atoms, unless there is no room or an atom with a cosine
    of at least ``largest_cosine``: then the pursuit began with it, so the first score tells.
    """
    batch, k = code.support.shape
    room = room_for_one(problem.x.shape[1], k, screen.scores.shape[1], batch)
    path = Path(np.empty((0, k), np.float32), np.empty((0, k, k), np.float32))
    count = np.int64(0)  # no literal, as above
    for i in range(batch):
        norm = math.sqrt(accurate_dot(problem.x[i], problem.x[i]))
        score, examined[i] = pursue_row(i, count, problem, screen, gram, code, path, room)
        has_room = screen.n_atoms + count < problem.atoms.shape[0]
        appended[i] = code.energy[i] > problem.target[i] and score < largest_cosine * norm and has_room
        if appended[i]:
            copy_to(problem.atoms[screen.n_atoms + count], directions[i])
            count += 1
