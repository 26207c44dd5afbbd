"""The step of pursuits that take one atom at a time, in the compiled loops without a Gram."""

import numpy as np

from itda_lightning.pursuit.kernels.jit import compiled
from itda_lightning.pursuit.kernels.named_arrays import Choice, Path, Problem, Progress, Work
from itda_lightning.pursuit.kernels.steps import copy_to, take_matching, take_orthogonal
from itda_lightning.pursuit.kernels.sums import accurate_dot


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
