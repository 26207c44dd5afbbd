"""Orthogonal matching pursuit (Pati, Rezaiifar, Krishnaprasad 1993; Algorithm 1 of arXiv 2505.17769)."""

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.pursuit.code import SparseCode
from itda_lightning.pursuit.correlation import Correlations
from itda_lightning.pursuit.limits import MIN_NEW_DIRECTION, NOISE_FLOOR
from itda_lightning.pursuit.path import Path


def run_orthogonal_matching_pursuit(
    x: Float[Tensor, "batch d"],
    correlations: Correlations,
    k: int,
    nonnegative: bool,
    error_threshold: float | Float[Tensor, " batch"] | None,
    path: Path | None = None,
) -> SparseCode:
    """k steps of orthogonal matching pursuit, given the correlations of x. Inputs are valid.

    Per step: the atom with the largest |correlation| (``nonnegative``: the largest correlation) joins the support and
    all coefficients become the least-squares ones on the support. The k x k Cholesky factors are float64. A sample ends
    early when nothing correlates above rounding noise, when its new direction is linearly dependent on the support,
    when its residual energy is at most ``error_threshold * |x|^2``, or (``nonnegative``) when the least-squares
    coefficients on the enlarged support would not all be non-negative; it then keeps its last code.
    """
    batch = len(x)
    support = torch.full((batch, k), -1, dtype=torch.int64, device=x.device)
    coefficients = torch.zeros(batch, k, dtype=torch.float64, device=x.device)
    factor = torch.eye(k, dtype=torch.float64, device=x.device).repeat(batch, 1, 1)
    projection = torch.zeros(batch, k, dtype=torch.float64, device=x.device)
    energy = x.double().square().sum(-1)
    floor = NOISE_FLOOR * energy.sqrt()
    target = energy * (error_threshold if error_threshold is not None else -1.0)
    active = energy > target
    for step in range(k):
        atom, correlation, score, square_norm = correlations.best(nonnegative)
        if path is not None:
            path.best[:, step] = torch.where(active, torch.maximum(score, floor.to(score.dtype)), torch.inf)
            path.history[:, step, :step] = coefficients[:, :step]
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
        used = step + 1
        solved = torch.linalg.solve_triangular(factor[:, :used, :used].mT, projection[:, :used, None], upper=True)[
            :, :, 0
        ]
        if nonnegative:
            active = active & (solved >= 0).all(-1)
            factor[:, step, :step] = torch.where(active[:, None], factor[:, step, :step], 0.0)
            projection[:, step] = torch.where(active, projection[:, step], 0.0)
        support[:, step] = torch.where(active, atom, -1)
        coefficients[:, :used] = torch.where(active[:, None], solved, coefficients[:, :used])
        energy = energy - projection[:, step].square()
        active = active & (energy > target)
        if used < k:
            correlations.replace(support[:, :used], coefficients[:, :used])
    return SparseCode(support, coefficients.to(x.dtype), energy.clamp(min=0).to(x.dtype))
