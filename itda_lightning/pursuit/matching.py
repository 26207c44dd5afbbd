"""Matching pursuit (Mallat and Zhang 1993; Algorithm 2 of arXiv 2505.17769)."""

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.pursuit.code import SparseCode
from itda_lightning.pursuit.correlation import Correlations
from itda_lightning.pursuit.limits import NOISE_FLOOR
from itda_lightning.pursuit.path import Path


def run_matching_pursuit(
    x: Float[Tensor, "batch d"],
    correlations: Correlations,
    k: int,
    nonnegative: bool,
    error_threshold: float | Float[Tensor, " batch"] | None,
    path: Path | None = None,
) -> SparseCode:
    """k steps of matching pursuit, given the correlations of x. Inputs are valid.

    Per step: the atom with the largest |correlation| (the lowest index where several are equal) gets that correlation
    added to its coefficient. A sample ends early when nothing correlates above rounding noise, or when its residual
    energy is at most ``error_threshold * |x|^2``.
    """
    batch = len(x)
    support = torch.full((batch, k), -1, dtype=torch.int64, device=x.device)
    coefficients = x.new_zeros(batch, k)
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
        chosen = correlation * active
        support[:, step] = torch.where(active, atom, -1)
        coefficients[:, step] = chosen
        # |r - c a|^2 = |r|^2 - c^2 (2 - |a|^2), where |a| need not be quite 1.
        energy = energy - chosen.double().square() * (2.0 - square_norm.double())
        active = active & (energy > target)
        if step + 1 < k:
            correlations.subtract(atom, chosen)
    return SparseCode(support, coefficients, energy.clamp(min=0).to(x.dtype))
