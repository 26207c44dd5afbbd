"""Orthogonal matching pursuit (Pati, Rezaiifar, Krishnaprasad 1993; Algorithm 1 of arXiv 2505.17769)."""

import torch
from torch.linalg import solve_triangular

from itda_lightning.pursuit.algorithm import OneAtATime, Pursuit
from itda_lightning.pursuit.code import SparseCode
from itda_lightning.pursuit.correlation import Correlations
from itda_lightning.pursuit.problem import MIN_NEW_DIRECTION, Problem


class OrthogonalMatchingPursuit(Pursuit):
    """Take the best atom k times, and solve for all coefficients after each."""

    title = "orthogonal matching pursuit"
    orthogonal = True

    def run(self, problem: Problem, correlations: Correlations) -> SparseCode:
        """Take k steps, given the correlations of x: all coefficients become the least-squares ones on the support.

        The k x k Cholesky factors are float64. A sample also ends, with its last code, when its new direction is
        linearly dependent on the support, or (``nonnegative``) when the least-squares coefficients on the larger
        support would not all be non-negative.
        """
        codes, k = OneAtATime(problem, correlations), problem.k
        support, coefficients = codes.support, codes.coefficients
        factor = torch.eye(k, dtype=torch.float64, device=support.device).repeat(len(support), 1, 1)
        projection = torch.zeros_like(coefficients)
        for step, (atom, correlation, _, square_norm) in codes:
            past, used = support[:, :step], slice(0, step + 1)
            inner = correlations.inner(past, atom).double().masked_fill(past < 0, 0.0)
            row = solve_triangular(factor[:, :step, :step], inner[:, :, None], upper=False)[:, :, 0]
            new_direction = square_norm.double() - row.square().sum(-1)
            active = codes.active & (new_direction > MIN_NEW_DIRECTION) & ~(past == atom[:, None]).any(-1)
            length = new_direction.clamp(min=MIN_NEW_DIRECTION).sqrt()
            factor[:, step, :step] = torch.where(active[:, None], row, 0.0)
            factor[:, step, step] = torch.where(active, length, 1.0)
            projection[:, step] = torch.where(active, correlation.double() / length, 0.0)
            solved = solve_triangular(factor[:, used, used].mT, projection[:, used, None], upper=True)[:, :, 0]
            if problem.nonnegative:
                active = active & (solved >= 0).all(-1)
                factor[:, step, :step] = torch.where(active[:, None], factor[:, step, :step], 0.0)
                projection[:, step] = torch.where(active, projection[:, step], 0.0)
            support[:, step] = torch.where(active, atom, -1)
            coefficients[:, used] = torch.where(active[:, None], solved, coefficients[:, used])
            codes.active, codes.energy = active, codes.energy - projection[:, step].square()
            if step + 1 < k:
                correlations.replace(support[:, used], coefficients[:, used])
        return codes.finished()
