"""Matching pursuit (Mallat and Zhang 1993; Algorithm 2 of arXiv 2505.17769)."""

import torch

from itda_lightning.pursuit.algorithm import Pursuit
from itda_lightning.pursuit.code import SparseCode
from itda_lightning.pursuit.correlation import Correlations
from itda_lightning.pursuit.problem import Problem


class MatchingPursuit(Pursuit):
    """Take the best atom k times; an atom may be taken again."""

    title = "matching pursuit"
    orthogonal = False
    exports_as_matching_pursuit = True

    def run(self, problem: Problem, correlations: Correlations) -> SparseCode:
        """Take k steps, given the correlations of x.

        Per step: the atom with the largest |correlation| (the lowest index if several are equal) gets that correlation
        added to its coefficient. A sample ends early when nothing correlates above rounding noise, or when its residual
        energy is at most ``error_threshold * |x|^2``.
        """
        x, k, path = problem.x, problem.k, problem.path
        support = torch.full((len(x), k), -1, dtype=torch.int64, device=x.device)
        coefficients = x.new_zeros(len(x), k)
        energy, floor, target = problem.limits()
        active = energy > target
        for step in range(k):
            atom, correlation, score, square_norm = correlations.best(problem.nonnegative)
            if path is not None:
                path.record(step, active, torch.maximum(score, floor.to(score.dtype)), coefficients)
            active = active & (score > floor)
            if not active.any():
                break
            chosen = correlation * active
            support[:, step] = torch.where(active, atom, -1)
            coefficients[:, step] = chosen
            # |r - c a|^2 = |r|^2 - c^2 (2 - |a|^2), where |a| need not be quite 1.
            energy = energy - chosen.double().square() * (2.0 - square_norm.double())
            active = active & (energy > target)
            if step + 1 < k:
                correlations.subtract(atom, chosen)
        return SparseCode(support, coefficients, energy.clamp(min=0).to(x.dtype))
