"""Orthogonal matching pursuit (Pati, Rezaiifar, Krishnaprasad 1993; Algorithm 1 of arXiv 2505.17769)."""

import torch

from itda_lightning.pursuit.algorithm import Pursuit
from itda_lightning.pursuit.code import SparseCode
from itda_lightning.pursuit.correlation import Correlations
from itda_lightning.pursuit.problem import MIN_NEW_DIRECTION, Problem


class OrthogonalMatchingPursuit(Pursuit):
    """Take the best atom k times, and solve for all coefficients after each."""

    title = "orthogonal matching pursuit"
    orthogonal = True

    def run(self, problem: Problem, correlations: Correlations) -> SparseCode:
        """Take k steps, given the correlations of x.

        Per step: the atom with the largest |correlation| (``nonnegative``: the largest correlation) joins the support
        and all coefficients become the least-squares ones on the support. The k x k Cholesky factors are float64. A
        sample ends early when nothing correlates above rounding noise, when its new direction is linearly dependent on
        the support, when its residual energy is at most ``error_threshold * |x|^2``, or (``nonnegative``) when the
        least-squares coefficients on the larger support would not all be non-negative; it then keeps its last code.
        """
        x, k, path = problem.x, problem.k, problem.path
        support = torch.full((len(x), k), -1, dtype=torch.int64, device=x.device)
        coefficients = torch.zeros(len(x), k, dtype=torch.float64, device=x.device)
        factor = torch.eye(k, dtype=torch.float64, device=x.device).repeat(len(x), 1, 1)
        projection = torch.zeros(len(x), k, dtype=torch.float64, device=x.device)
        energy, floor, target = problem.limits()
        active = energy > target
        for step in range(k):
            atom, correlation, score, square_norm = correlations.best(problem.nonnegative)
            if path is not None:
                path.record(step, active, torch.maximum(score, floor.to(score.dtype)), coefficients)
            active = active & (score > floor)
            if not active.any():
                break
            past = support[:, :step]
            inner = correlations.inner(past, atom).double().masked_fill(past < 0, 0.0)
            row = torch.linalg.solve_triangular(factor[:, :step, :step], inner[:, :, None], upper=False)[:, :, 0]
            new_direction = square_norm.double() - row.square().sum(-1)
            active = active & (new_direction > MIN_NEW_DIRECTION) & ~(past == atom[:, None]).any(-1)
            length = new_direction.clamp(min=MIN_NEW_DIRECTION).sqrt()
            factor[:, step, :step] = torch.where(active[:, None], row, 0.0)
            factor[:, step, step] = torch.where(active, length, 1.0)
            projection[:, step] = torch.where(active, correlation.double() / length, 0.0)
            used = slice(0, step + 1)
            solved = torch.linalg.solve_triangular(factor[:, used, used].mT, projection[:, used, None], upper=True)[
                :, :, 0
            ]
            if problem.nonnegative:
                active = active & (solved >= 0).all(-1)
                factor[:, step, :step] = torch.where(active[:, None], factor[:, step, :step], 0.0)
                projection[:, step] = torch.where(active, projection[:, step], 0.0)
            support[:, step] = torch.where(active, atom, -1)
            coefficients[:, used] = torch.where(active[:, None], solved, coefficients[:, used])
            energy = energy - projection[:, step].square()
            active = active & (energy > target)
            if step + 1 < k:
                correlations.replace(support[:, used], coefficients[:, used])
        return SparseCode(support, coefficients.to(x.dtype), energy.clamp(min=0).to(x.dtype))
