"""Leave-one-out pruning of codes: an atom stays if leaving it out would cost enough, all others solved again.

Every pursuit takes k atoms, though most activations need fewer: the last steps explain noise. For least-squares
coefficients c on a support whose Gram matrix is G, leaving atom j out raises the squared error by
``c_j^2 / (G^-1)_jj``. The atom with the least such gain leaves while it is below a share of the activation's energy;
the others' coefficients and the inverse follow in closed form.

On worlds of known features this is what makes an atom fire where its feature is, at little cost in error
(``benchmarks/synthetic``).
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.machine.shrinking_blocks import in_blocks
from itda_lightning.pursuit.code import SparseCode
from itda_lightning.pursuit.generalised import factor_of, unused_last
from itda_lightning.pursuit.prepared import PreparedAtoms
from itda_lightning.pursuit.problem import Problem
from itda_lightning.pursuit.public import check_finite, check_unit_rows, pursue
from itda_lightning.pursuit.table import PURSUITS, PursuitName

# Entries of the chosen atoms that are gathered at a time, in float64: on a GPU, as many as keep it busy.
BLOCK_ENTRIES = {"cpu": 2**23}
BLOCK_ENTRIES_ELSEWHERE = 2**28
ENCODED_ROWS = 8192


class Pruned(NamedTuple):
    """Pruned codes, and how much pruning each atom would bear.

    Attributes:
        code: what is left, in its order; unused columns are last.
        bears: (batch, k) float64, in no order, for each atom of the code before: the largest ``least_gain`` at which it
            is still there, infinite if it is there now. 0 for unused columns.
    """

    code: SparseCode
    bears: Float[Tensor, "batch k"]


def prune(
    code: SparseCode,
    x: Float[Tensor, "batch d"],
    atoms: Float[Tensor, "n d"],
    least_gain: float,
    nonnegative: bool = False,
) -> SparseCode:
    """Leave out, one after another, the atoms of each code that explain too little, and solve again for the others.

    The atom whose leaving raises the squared error least is left out while that is less than ``least_gain * |x|^2``;
    then all coefficients are the least-squares ones on what is left. Codes of every pursuit are taken; the picks of an
    atom by matching pursuit become one.

    Args:
        code: codes of x over the atoms.
        x: (batch, d) the activations that were encoded (less the bias, if there is one), any floating dtype.
        atoms: (n, d) unit-norm rows.
        least_gain: in [0, 1]; 0 leaves every atom in place.
        nonnegative: an atom whose coefficient is or becomes negative is left out before all others.

    Returns:
        A ``SparseCode`` with supports (batch, k) in the order of ``code``, unused columns last.

    Raises:
        ValueError: a ``least_gain`` outside [0, 1], shapes that do not match, a support beyond the atoms, non-finite x,
            atoms that are not unit rows.

    Example:
        >>> import torch
        >>> import itda_lightning as il
        >>> x = torch.tensor([[3.0, 4.0, 0.5]])
        >>> code = il.matching_pursuit(x, torch.eye(3), k=3)
        >>> il.prune(code, x, torch.eye(3), least_gain=0.1).support  # 0.5^2 is less than a tenth of |x|^2
        tensor([[ 1,  0, -1]])
    """
    check_least_gain(least_gain)
    if x.ndim != 2 or len(x) != len(code.support) or x.shape[1:] != atoms.shape[1:]:
        raise ValueError(
            f"{len(code.support)} codes over atoms {tuple(atoms.shape)} are not of x with shape {tuple(x.shape)}: give "
            "the activations that were encoded"
        )
    if code.support.numel() and int(code.support.max()) >= len(atoms):
        raise ValueError(f"the codes use atom {int(code.support.max())} of {len(atoms)}: give the atoms of the codes")
    check_finite(x)
    check_unit_rows(atoms)
    prepared = PreparedAtoms(atoms.to(torch.promote_types(x.dtype, atoms.dtype)), len(atoms))
    return leave_one_out(code, x.detach().to(prepared.dtype), prepared, least_gain, nonnegative).code


def encode_in_parts(
    x: Float[Tensor, "batch d"],
    centre: Callable[[Tensor], Tensor],
    prepared: PreparedAtoms,
    pursuit: PursuitName,
    k: int,
    nonnegative: bool,
    least_gain: float,
    error_threshold: float | None,
) -> Iterator[Pruned]:
    """Encode activations in parts, since centring all would double the memory of a long batch; prune if asked to."""
    PURSUITS[pursuit].init(prepared, len(x), k)
    rows = max(1, min(ENCODED_ROWS, prepared.budget // 8 // (prepared.dtype.itemsize * max(1, x.shape[1]))))
    for part in x.split(rows):
        centred = centre(part)
        code = pursue(pursuit, centred, prepared, k, nonnegative, error_threshold)
        if least_gain > 0:
            yield leave_one_out(code, centred.to(prepared.dtype), prepared, least_gain, nonnegative)
        else:
            yield Pruned(code, torch.zeros_like(code.coefficients, dtype=torch.float64))


def check_least_gain(least_gain: float) -> None:
    """Raise ValueError unless it is a share."""
    if not 0 <= least_gain <= 1:
        raise ValueError(f"least_gain must be a share of |x|^2 in [0, 1], got {least_gain}: .01 to .03 is usual")


def gain_for_l0(bears: Float[Tensor, "batch k"], l0: float) -> float:
    """Return the ``least_gain`` at which codes have that many atoms on average, given what all their atoms bear."""
    wanted = min(round(l0 * len(bears)), int((bears > 0).sum()))
    return float(bears.flatten().topk(wanted).values[-1]) if wanted else 1.0


def leave_one_out(
    code: SparseCode, x: Float[Tensor, "batch d"], prepared: PreparedAtoms, least_gain: float, nonnegative: bool
) -> Pruned:
    """Prune codes without the checks of ``prune``, in the form that the prepared atoms allow."""
    if code.support.numel() == 0:
        return Pruned(code, torch.zeros_like(code.coefficients, dtype=torch.float64))
    if prepared.compiled:
        return _compiled(code, x.contiguous(), prepared, least_gain, nonnegative)
    code = code.distinct()
    support, coefficients = unused_last(code.support, code.coefficients)
    code = SparseCode(support, coefficients, code.residual_energy)
    entries = min(BLOCK_ENTRIES.get(x.device.type, BLOCK_ENTRIES_ELSEWHERE), prepared.budget // 64)
    rows = max(1, entries // (support.shape[1] * x.shape[1]))

    def pruned(block: slice) -> Pruned:
        chosen = prepared.rows[support[block].clamp(min=0)].to(x.dtype)
        part = SparseCode(*(values[block] for values in code))
        return prune_chosen(part, x[block], chosen, least_gain, nonnegative)

    parts = list(in_blocks(len(x), rows, pruned))
    return Pruned(SparseCode.concatenate(part.code for part in parts), torch.cat([part.bears for part in parts]))


def _compiled(
    code: SparseCode, x: Float[Tensor, "batch d"], prepared: PreparedAtoms, least_gain: float, nonnegative: bool
) -> Pruned:
    from itda_lightning.pursuit import compiled  # needs numba, which is there then
    from itda_lightning.pursuit.kernels import named_arrays
    from itda_lightning.pursuit.kernels.pruning_rows import prune_rows

    support, coefficients = code.support.clone(), torch.empty_like(code.coefficients)
    left, bears = torch.empty(len(x), dtype=torch.float64), torch.empty_like(coefficients, dtype=torch.float64)
    problem = compiled.kernel_problem(PURSUITS["omp"], Problem(x, support.shape[1], nonnegative), prepared)
    arrays = named_arrays.Code(support.numpy(), coefficients.numpy(), left.numpy())
    compiled.in_threads(prune_rows, len(x), problem, float(least_gain), arrays, bears.numpy())
    return Pruned(SparseCode(support, coefficients, left.float()), bears)


def prune_chosen(
    code: SparseCode,
    x: Float[Tensor, "batch d"],
    chosen: Float[Tensor, "batch k d"],
    least_gain: float,
    nonnegative: bool,
) -> Pruned:
    """Prune codes of distinct atoms in plain torch, given the atoms of their supports."""
    chosen = chosen.double()
    factor, present = factor_of(chosen @ chosen.mT, code.support >= 0)
    inverse = torch.cholesky_inverse(factor)
    projections = torch.where(present, (chosen @ x.double()[:, :, None])[:, :, 0], 0.0)
    solved = (inverse @ projections[:, :, None])[:, :, 0]
    energy = torch.linalg.vector_norm(x, dim=1, dtype=torch.float64).square()
    gone_at = torch.where(present, torch.inf, 0.0).double()
    highest, number = torch.zeros_like(energy), torch.arange(len(x), device=x.device)
    limit = torch.full_like(energy, torch.inf) if least_gain == torch.inf else least_gain * energy
    for _ in range(present.shape[1]):
        gain = solved.square() / inverse.diagonal(dim1=1, dim2=2)
        if nonnegative:
            gain = torch.where(solved < 0, -gain, gain)
        least, worst = torch.where(present, gain, torch.inf).min(1)
        leaves = present.any(1) & (least < limit)
        if not leaves.any():
            break
        highest = torch.where(leaves, torch.maximum(highest, least), highest)
        gone_at[number, worst] = torch.where(leaves, highest, gone_at[number, worst])
        of_worst = inverse[number, :, worst]
        share = torch.where(leaves[:, None], of_worst / of_worst[number, worst][:, None], 0.0)
        solved = solved - share * solved[number, worst][:, None]
        inverse = inverse - share[:, :, None] * of_worst[:, None, :]
        present[number, worst] &= ~leaves
        # The row and column of what left hold zeros: a unit diagonal keeps the quotients finite.
        inverse[number, worst, worst] = torch.where(leaves, 1.0, inverse[number, worst, worst])
        solved[number, worst] = torch.where(leaves, 0.0, solved[number, worst])
    solved = solved.masked_fill(~present, 0.0).to(code.coefficients.dtype)
    left = (x.double() - (solved.double()[:, None, :] @ chosen)[:, 0]).square().sum(-1).to(code.residual_energy.dtype)
    support, coefficients = unused_last(code.support.masked_fill(~present, -1), solved)
    bears = gone_at / torch.where(energy > 0, energy, 1.0)[:, None]
    return Pruned(SparseCode(support, coefficients, left), bears)
