"""Generalised orthogonal matching pursuit (Wang, Kwon and Shim 2012, https://arxiv.org/abs/1111.6664): several atoms a step.

An orthogonal pursuit takes the best atom, explains with it what others nearly as good would have explained, and so leaves them
out: small changes of an activation change which one it is. Taking a third of the code at a time leaves in what is alike, so
codes of like activations are more alike, which probes feel; the error is larger, and three products with all atoms do for a
code.

Chosen by measurement (SmolLM2-135M, layer 14, 4,096 atoms refined at .8 for each, k 32, non-negative codes; probes of 16 latents
on eight datasets, eight draws, their standard error .004): in 8, 4, 3, 2 steps FVU .125, .136, .144, .160 and probes .747, .755,
.763, .770. The orthogonal pursuit had .112 and .738, a TopK SAE of ten times the tokens .157 and .763.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from itda_lightning.pursuit.code import SparseCode
from itda_lightning.pursuit.correlation import combine, correlate
from itda_lightning.pursuit.limits import MIN_NEW_DIRECTION, NOISE_FLOOR

STEPS = 3


def steps_of(k: int) -> list[slice]:
    """The columns of a code that each step fills: a third of k, rounded up."""
    taken = -(-k // STEPS)
    return [slice(start, min(k, start + taken)) for start in range(0, k, taken)]


def run_generalised_pursuit(
    x: Float[Tensor, "batch d"],
    atoms: Float[Tensor, "n d"],
    k: int,
    nonnegative: bool,
    error_threshold: float | Float[Tensor, " batch"] | None,
) -> SparseCode:
    """Steps of generalised orthogonal matching pursuit. Inputs are valid.

    Per step: the atoms with the largest |correlation| (``nonnegative``: the largest correlations) that are not in the support
    join it, and all coefficients become the least-squares ones. An atom that is linearly dependent on those before it leaves
    the support; so do, with ``nonnegative``, all whose coefficient is negative, until none is. A sample ends early when
    nothing correlates above rounding noise, or when its residual energy is at most ``error_threshold * |x|^2``.
    """
    batch = len(x)
    support = torch.full((batch, k), -1, dtype=torch.int64, device=x.device)
    coefficients = torch.zeros(batch, k, dtype=torch.float64, device=x.device)
    gram = torch.zeros(batch, k, k, dtype=torch.float64, device=x.device)
    projections = torch.zeros(batch, k, dtype=torch.float64, device=x.device)
    whole = x.double().square().sum(-1)
    floor = NOISE_FLOOR * whole.sqrt()
    target = whole * (error_threshold if error_threshold is not None else -1.0)
    active = whole > torch.clamp(target, min=0.0)
    residual = x
    for new in steps_of(k):
        if not active.any():
            break
        atom, score = _best(correlate(residual, atoms), support[:, : new.start], new.stop - new.start, nonnegative)
        taken = active[:, None] & (score > floor[:, None])
        support[:, new] = torch.where(taken, atom, -1)
        chosen = atoms[support[:, : new.stop].clamp(min=0)].double()
        inner = chosen[:, new] @ chosen.mT
        gram[:, new, : new.stop], gram[:, : new.stop, new] = inner, inner.mT
        projections[:, new] = (chosen[:, new] @ x.double()[:, :, None])[:, :, 0]
        used = slice(0, new.stop)
        solved, kept = _least_squares(gram[:, used, used], projections[:, used], support[:, used] >= 0, nonnegative)
        coefficients[:, used] = torch.where(active[:, None], solved, coefficients[:, used])
        support[:, used] = torch.where(active[:, None] & ~kept, -1, support[:, used])
        residual = x - combine(support[:, used], coefficients[:, used].to(x.dtype), atoms)
        energy = residual.double().square().sum(-1)
        active = active & taken.any(-1) & (energy > target) & (energy > floor.square())
    order = (support < 0).to(torch.int8).argsort(dim=1, stable=True)
    residual_energy = (x - combine(support, coefficients.to(x.dtype), atoms)).double().square().sum(-1)
    return SparseCode(support.gather(1, order), coefficients.gather(1, order).to(x.dtype), residual_energy.to(x.dtype))


def _best(
    correlation: Float[Tensor, "batch n"], support: Int[Tensor, "batch used"], count: int, nonnegative: bool
) -> tuple[Int[Tensor, "batch count"], Float[Tensor, "batch count"]]:
    """The best atoms outside the support, and their scores; -1 and 0 where there are fewer."""
    score = correlation if nonnegative else correlation.abs()
    # What is unused is sent to a column behind the others.
    score = torch.nn.functional.pad(score, (0, count + 1)).scatter(1, support % (score.shape[1] + 1), 0.0)
    score[:, correlation.shape[1] :] = 0.0
    best, atom = score.topk(count, dim=1)
    return torch.where(best > 0, atom, -1), best


def _least_squares(
    gram: Float[Tensor, "batch used used"],
    projections: Float[Tensor, "batch used"],
    kept: Bool[Tensor, "batch used"],
    nonnegative: bool,
) -> tuple[Float[Tensor, "batch used"], Bool[Tensor, "batch used"]]:
    """Least-squares coefficients of the atoms that are kept, and which these are in the end."""
    kept = kept.clone()
    while True:
        factor = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device).repeat(len(gram), 1, 1)
        for column in range(gram.shape[1]):
            before = slice(0, column)
            inner = torch.where(kept[:, before], gram[:, column, before], 0.0)
            row = torch.linalg.solve_triangular(factor[:, before, before], inner[:, :, None], upper=False)[:, :, 0]
            new_direction = gram[:, column, column] - row.square().sum(-1)
            kept[:, column] &= new_direction > MIN_NEW_DIRECTION
            stays = kept[:, column]
            factor[:, column, before] = torch.where(stays[:, None], row, 0.0)
            factor[:, column, column] = torch.where(stays, new_direction.clamp(min=MIN_NEW_DIRECTION).sqrt(), 1.0)
        inner = torch.where(kept, projections, 0.0)
        solved = torch.cholesky_solve(inner[:, :, None], factor)[:, :, 0]
        negative = kept & (solved < 0)
        if not nonnegative or not negative.any():
            return solved, kept
        kept &= ~negative
