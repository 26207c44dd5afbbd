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
def fill_gram_row(atoms: Atoms, atom: int, start: int, stop: int, row: Entries, unit: float) -> None:
    """Fill in the inner products of one atom with the atoms ``start..stop``."""
    for other in range(start, stop):
        row[other] = np.int16(np.rint(dot(atoms[atom], atoms[other]) / np.float32(unit)))


@compiled
def fill_gram_rows(start: int, stop: int, atoms: Atoms, first: int, last: int, gram: Gram) -> None:
    """Fill in the inner products of the atoms ``first..last`` with the atoms ``start..stop``."""
    for atom in range(first, last):
        fill_gram_row(atoms, atom, start, stop, gram.entries[atom], gram.unit)


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
def room_for_one(d: int, k: int, groups: int, has_gram_row: Flags) -> Any:
    """Allocate the memory of the pursuit of one activation."""
    work = Work(np.empty(k), np.empty((2, k)), np.empty(k, np.float32), np.empty((k, k)))
    exact, maxima = np.empty(groups * GROUP, np.bool_), np.empty(groups, np.float32)
    return Room(np.empty(d, np.float32), exact, maxima, np.empty(k), has_gram_row, work)


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
        if path.history.shape[0] > 0:
            copy_to(path.history[i, step], found[:step])
        if path.residual.shape[0] > 0:
            copy_to(path.residual[i, step], residual)
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
                fill_gram_row(atoms, atom, 0, visible, gram.entries[atom], unit)
                room.has_gram_row[atom - visible] = True
            used = slice(first, step + 1)
            update_scores(scores, maxima, gram, support[used], change[used], weights, visible, nonnegative)
    code.energy[i] = energy
    return first_score, examined


@compiled
def pursue_rows(
    start: int,
    stop: int,
    problem: Problem,
    screen: Screen,
    gram: Gram,
    code: Code,
    path: Path,
    examined: Index,
    appended: int,
    has_gram_row: Flags,
) -> None:
    """Encode the rows ``start..stop``; ``examined`` gets the number of atoms that no screen could rule out."""
    room = room_for_one(problem.x.shape[1], code.support.shape[1], screen.scores.shape[1], has_gram_row)
    for i in range(start, stop):
        _, examined[i] = pursue_row(i, appended, problem, screen, gram, code, path, room)


@compiled
def is_outdated(i: int, start: int, stop: int, atoms: Atoms, nonnegative: bool, path: Path) -> bool:
    """Check if one of the atoms ``start..stop`` would have won a step of row ``i``."""
    for step in range(path.best.shape[1]):
        if path.best[i, step] == np.inf:  # the pursuit had ended
            return False
        for atom in range(start, stop):
            own = dot(path.residual[i, step], atoms[atom])
            if (own if nonnegative else abs(own)) >= path.best[i, step]:
                return True
    return False


@compiled
def pursue_and_append(
    problem: Problem,
    directions: Atoms,
    screen: Screen,
    gram: Gram,
    code: Code,
    path: Path,
    examined: Index,
    appended: int,
    has_gram_row: Flags,
    largest_cosine: float,
    accepted: Flags,
) -> int:
    """Encode one row after another; what leaves more energy than its target becomes an atom for those after it.

    Row ``i`` of ``directions`` is appended behind the screened atoms and the ``appended`` ones, unless there is no room
    or an atom with a cosine of at least ``largest_cosine``: then the pursuit began with it, so the first score tells.
    If there is a path, ``pursue_rows`` has encoded the rows with the atoms before all of them, and only those are
    encoded again that an atom of an earlier row changes. Returned is the new number of appended atoms.
    """
    batch, k = code.support.shape
    room = room_for_one(problem.x.shape[1], k, screen.scores.shape[1], has_gram_row)
    no_path = Path(path.best[:0], path.history[:0], path.residual[:0])
    first = appended
    for i in range(batch):
        norm = math.sqrt(accurate_dot(problem.x[i], problem.x[i]))
        start, stop = screen.n_atoms + first, screen.n_atoms + appended
        if path.best.shape[0] == 0 or is_outdated(i, start, stop, problem.atoms, problem.nonnegative, path):
            score, examined[i] = pursue_row(i, appended, problem, screen, gram, code, no_path, room)
        else:
            score = float(path.best[i, 0])
        has_room = stop < problem.atoms.shape[0]
        accepted[i] = code.energy[i] > problem.target[i] and score < largest_cosine * norm and has_room
        if accepted[i]:
            copy_to(problem.atoms[stop], directions[i])
            appended += 1
    return appended
