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
    magnitude = torch.empty_like(correlations.current)  # fresh memory at each step would cost more than the sums
    for step in range(k):
        score = correlations.current if nonnegative else torch.abs(correlations.current, out=magnitude)
        best, atom = score.max(dim=1)
        if path is not None:
            path.best[:, step] = torch.where(active, torch.maximum(best, floor.to(best.dtype)), torch.inf)
            path.history[:, step, :step] = coefficients[:, :step]
        active = active & (best > floor)
        if not active.any():
            break
        chosen = correlations.current.gather(1, atom[:, None])[:, 0] * active
        support[:, step] = torch.where(active, atom, -1)
        coefficients[:, step] = chosen
        # |r - c a|^2 = |r|^2 - c^2 (2 - |a|^2): atoms stored in half precision are not quite of unit norm.
        square_norm = correlations.inner(atom[:, None], atom)[:, 0].double()
        energy = energy - chosen.double().square() * (2.0 - square_norm)
        active = active & (energy > target)
        if step + 1 < k:
            correlations.subtract(atom, chosen)
    return SparseCode(support, coefficients, energy.clamp(min=0).to(x.dtype))
