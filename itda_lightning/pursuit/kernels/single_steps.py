"""The compiled loops of pursuits that take one atom per step, without a Gram."""

import math

import numpy as np

from itda_lightning.pursuit.kernels.jit import compiled
from itda_lightning.pursuit.kernels.named_arrays import Choice, Path, Problem, Progress, Screen, Work
from itda_lightning.pursuit.kernels.screening import GROUP, group_maxima, hide, select_among
from itda_lightning.pursuit.kernels.steps import copy_to, take_matching, take_orthogonal
from itda_lightning.pursuit.kernels.sums import accurate_dot


@compiled
def select(start: int, stop: int, problem: Problem, screen: Screen, progress: Progress, choice: Choice) -> None:
    """Bring the best atoms up to date with the screened part of the atoms.

    Row ``p`` of the screen belongs to the activation ``progress.rows[p]``, for p in ``start..stop``.
    """
    all_exact = np.empty(screen.n_atoms, np.bool_)
    all_maxima = np.empty(screen.scores.shape[1], np.float32)
    atoms, nonnegative = problem.atoms[screen.first :], problem.nonnegative
    for p in range(start, stop):
        i = progress.rows[p]
        residual, score = progress.residual[i], choice.scores[i]
        seen = min(screen.n_atoms, problem.visible[i] - screen.first)
        if seen <= 0:
            continue
        groups = (seen + GROUP - 1) // GROUP
        scores, maxima, exact = screen.scores[p, :groups], all_maxima[:groups], all_exact[:seen]
        hide(scores, seen)
        top = group_maxima(scores, nonnegative, maxima)
        error = screen.error[p] + screen.relative * top
        error += problem.rounding * math.sqrt(accurate_dot(residual, residual))
        if maxima.max() + error < score[0]:
            continue
        exact[:] = False
        atom, value, _ = select_among(
            scores, maxima, residual, atoms, nonnegative, exact, np.float32(error), np.float32(0)
        )
        if value > score[0]:  # equal scores: the atom of an earlier part stays
            score[0], choice.atoms[i, 0] = value, screen.first + atom


@compiled
def take(start: int, stop: int, step: int, problem: Problem, progress: Progress, choice: Choice, path: Path) -> None:
    """Take one step of the rows ``start..stop`` of ``progress.rows``, with the atoms chosen for them."""
    k = progress.support.shape[1]
    change, scratch, weights = np.empty(k), np.empty((2, k)), np.empty(k, np.float32)
    energy, active = progress.energy, progress.active
    for p in range(start, stop):
        i = progress.rows[p]
        residual, floor, score = progress.residual[i], progress.floor[i], choice.scores[i, 0]
        if path.best.shape[0] > 0:
            path.best[i, step] = np.float32(max(score, floor))
            copy_to(path.history[i, step], progress.coefficients[i, :step])
        active[i] = score > floor
        if not active[i]:
            continue
        atom, support, coefficients = choice.atoms[i, 0], progress.support[i], progress.coefficients[i]
        if problem.orthogonal:
            work = Work(change, scratch, weights, progress.matrix[i])
            active[i] = take_orthogonal(i, atom, step, problem, residual, support, coefficients, work)
        else:
            take_matching(atom, step, problem.atoms, residual, support, coefficients, change)
        energy[i] = accurate_dot(residual, residual)
        active[i] = active[i] and energy[i] > problem.target[i] and energy[i] > floor**2
