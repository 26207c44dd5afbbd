"""Matching pursuit (Mallat and Zhang 1993; Algorithm 2 of arXiv 2505.17769)."""

import torch

from itda_lightning.pursuit.algorithm import OneAtATime, Pursuit
from itda_lightning.pursuit.code import SparseCode
from itda_lightning.pursuit.correlation import Correlations
from itda_lightning.pursuit.problem import Problem


class MatchingPursuit(Pursuit):
    """Take the best atom k times; an atom may be taken again."""

    title = "matching pursuit"
    orthogonal = False
    exports_as_matching_pursuit = True

    def run(self, problem: Problem, correlations: Correlations) -> SparseCode:
        """Take k steps, given the correlations of x: the best atom gets its correlation added to its coefficient."""
        codes = OneAtATime(problem, correlations)
        for step, best in codes:
            chosen = best.correlation * codes.active
            codes.support[:, step] = torch.where(codes.active, best.atom, -1)
            codes.coefficients[:, step] = chosen
            # |r - c a|^2 = |r|^2 - c^2 (2 - |a|^2), where |a| need not be quite 1.
            codes.energy = codes.energy - chosen.double().square() * (2.0 - best.square_norm.double())
            if step + 1 < problem.k:
                correlations.subtract(best.atom, chosen)
        return codes.finished()
