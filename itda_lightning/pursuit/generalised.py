"""Generalised orthogonal matching pursuit (Wang, Kwon and Shim 2012, arXiv 1111.6664): several atoms per step.

An orthogonal pursuit takes the best atom and explains with it what others nearly as good would have explained, so it
leaves them out, and small changes of an activation change which one it takes. Taking a third of the code at a time
keeps all that are alike: similar activations get more similar codes, from which probes gain. The error is larger, and a
code takes three products with all atoms.

Chosen by measurement (SmolLM2-135M-Instruct from 4 bits, layer 14, 4,096 atoms, k 48 pruned to 32, on text and 21
probe datasets that no table reports, ``benchmarks/quality/results/steps.md``): in 8, 4, 3, 2 steps a CE increase of
.026, .027, .036, .075 and probes of 16 latents .700, .698, .706, .706, of which the differences to three steps have
errors of .004, .003, .003 and .005, .005, .004. So three has the best probes and half the error of two.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from itda_lightning.pursuit.algorithm import BLOCK_BYTES_ELSEWHERE, Pursuit
from itda_lightning.pursuit.code import SparseCode
from itda_lightning.pursuit.correlation import Correlations, ResidualCorrelations
from itda_lightning.pursuit.prepared import PreparedAtoms
from itda_lightning.pursuit.problem import MIN_NEW_DIRECTION, Problem

STEPS = 3


class GeneralisedOrthogonalMatchingPursuit(Pursuit):
    """Take a third of k atoms per step, and solve for all coefficients after each."""

    title = "generalised orthogonal matching pursuit"
    orthogonal = True
    takes_gram = False
    judged_by_itself = False
    shared_by_processes = False
    atoms_leave = True

    def steps(self, k: int) -> list[slice]:
        per_step = -(-k // STEPS)
        return [slice(start, min(k, start + per_step)) for start in range(0, k, per_step)]

    def loops(self) -> Any:
        from itda_lightning.pursuit.kernels import several_steps

        return several_steps

    def bytes_in_torch(self, n: int, d: int, k: int, itemsize: int) -> int:  # noqa: ARG002  it works in float64
        # n scores, the atoms of the code and two k x k matrices, in float64.
        return 8 * (n + k * d + 2 * k * k)

    def rows_in_torch(self, prepared: PreparedAtoms, k: int) -> int:
        per_row = self.bytes_in_torch(prepared.n, prepared.rows.shape[1], k, prepared.dtype.itemsize)
        return max(1, min(BLOCK_BYTES_ELSEWHERE, prepared.budget // 8) // per_row)

    def run(self, problem: Problem, correlations: Correlations) -> SparseCode:
        """Take the steps, given the correlations of x: the best atoms outside the support join it in each.

        Those that are linearly dependent on others leave it, and so do, with ``nonnegative``, all whose least-squares
        coefficient is negative, until none is. A sample ends as those of ``OneAtATime`` do.
        """
        assert isinstance(correlations, ResidualCorrelations), "each step is a product with all atoms"
        x, k, atoms = problem.x, problem.k, correlations.atoms
        support = torch.full((len(x), k), -1, dtype=torch.int64, device=x.device)
        coefficients = torch.zeros(len(x), k, dtype=torch.float64, device=x.device)
        gram = torch.zeros(len(x), k, k, dtype=torch.float64, device=x.device)
        projections = torch.zeros(len(x), k, dtype=torch.float64, device=x.device)
        energy, floor, target = problem.limits()
        active = energy > torch.clamp(target, min=0.0)
        for new in self.steps(k):
            if not active.any():
                break
            count, used = new.stop - new.start, slice(0, new.stop)
            atom, score = _best(correlations.current, support[:, : new.start], count, problem.nonnegative)
            taken = active[:, None] & (score > floor[:, None])
            support[:, new] = torch.where(taken, atom, -1)
            chosen = atoms[support[:, used].clamp(min=0)].double()
            inner = chosen[:, new] @ chosen.mT
            gram[:, new, used], gram[:, used, new] = inner, inner.mT
            projections[:, new] = (chosen[:, new] @ x.double()[:, :, None])[:, :, 0]
            solved, kept = _least_squares(
                gram[:, used, used], projections[:, used], support[:, used] >= 0, problem.nonnegative
            )
            coefficients[:, used] = torch.where(active[:, None], solved, coefficients[:, used])
            support[:, used] = torch.where(active[:, None] & ~kept, -1, support[:, used])
            if new.stop < k:
                correlations.replace(support[:, used], coefficients[:, used].to(x.dtype))
                energy = correlations.residual.double().square().sum(-1)
                active = active & taken.any(-1) & (energy > target) & (energy > floor.square())
        support, coefficients = unused_last(support, coefficients)
        return SparseCode(support, coefficients.to(x.dtype), energy.to(x.dtype))


def unused_last(
    support: Int[Tensor, "batch k"], coefficients: Float[Tensor, "batch k"]
) -> tuple[Int[Tensor, "batch k"], Float[Tensor, "batch k"]]:
    """Move the columns of atoms that left the support behind the others, whose order stays."""
    order = (support < 0).to(torch.int8).argsort(dim=1, stable=True)
    return support.gather(1, order), coefficients.gather(1, order)


def _best(
    correlation: Float[Tensor, "batch n"], support: Int[Tensor, "batch used"], count: int, nonnegative: bool
) -> tuple[Int[Tensor, "batch count"], Float[Tensor, "batch count"]]:
    """Return the best atoms outside the support, and their scores; -1 and 0 if there are fewer.

    The largest score comes first, and of equal ones the lowest index.
    """
    score = correlation if nonnegative else correlation.abs()
    # Unused entries go to a column behind the others.
    score = torch.nn.functional.pad(score, (0, count + 1)).scatter(1, support % (score.shape[1] + 1), 0.0)
    score[:, correlation.shape[1] :] = 0.0
    best, atom = score.topk(count, dim=1)  # of equal scores any, in any order
    least = best[:, -1:]
    tied = ((score == least).sum(1) > (best == least).sum(1)) & (least[:, 0] > 0)
    if tied.any():
        values, indices = score[tied].sort(dim=1, descending=True, stable=True)
        best[tied], atom[tied] = values[:, :count], indices[:, :count]
    atom, order = atom.sort(dim=1)
    best, order = best.gather(1, order).sort(dim=1, descending=True, stable=True)
    atom = atom.gather(1, order)
    return torch.where(best > 0, atom, -1), best


def _least_squares(
    gram: Float[Tensor, "batch used used"],
    projections: Float[Tensor, "batch used"],
    kept: Bool[Tensor, "batch used"],
    nonnegative: bool,
) -> tuple[Float[Tensor, "batch used"], Bool[Tensor, "batch used"]]:
    """Solve for the coefficients of the atoms that are kept; return them, and which atoms these are in the end."""
    while True:
        factor, kept = factor_of(gram, kept)
        inner = torch.where(kept, projections, 0.0)
        solved = torch.cholesky_solve(inner[:, :, None], factor)[:, :, 0]
        negative = kept & (solved < 0)
        if not nonnegative or not negative.any():
            return solved, kept
        kept = kept & ~negative


def factor_of(
    gram: Float[Tensor, "batch used used"], kept: Bool[Tensor, "batch used"]
) -> tuple[Float[Tensor, "batch used used"], Bool[Tensor, "batch used"]]:
    """Return the Cholesky factor of the Gram of the atoms kept, with unit columns for others, and which are kept.

    An atom that is linearly dependent on those before it is not.
    """
    both = kept[:, :, None] & kept[:, None, :]
    identity = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    factor, failed = torch.linalg.cholesky_ex(torch.where(both, gram, identity))
    dependent = (failed > 0) | (factor.diagonal(dim1=1, dim2=2).square() <= MIN_NEW_DIRECTION).any(1)
    if dependent.any():
        kept = kept.clone()
        factor[dependent], kept[dependent] = _factor_in_order(gram[dependent], kept[dependent])
    return factor, kept


def _factor_in_order(
    gram: Float[Tensor, "batch used used"], kept: Bool[Tensor, "batch used"]
) -> tuple[Float[Tensor, "batch used used"], Bool[Tensor, "batch used"]]:
    """Factor column by column, leaving out each atom that is linearly dependent on those before it."""
    kept = kept.clone()
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
    return factor, kept
