"""Encode one batch by all processes: each encodes a share of the activations, and every one gets all codes."""

from jaxtyping import Float
from torch import Tensor

from itda_lightning.machine.processes import gather_rows, rank, shares
from itda_lightning.pursuit.code import SparseCode
from itda_lightning.pursuit.prepared import PreparedAtoms
from itda_lightning.pursuit.problem import Problem
from itda_lightning.pursuit.public import pursue
from itda_lightning.pursuit.table import PursuitName

# Products of plain torch round by their shape, so activations go through them in parts of this size on any number of
# processes. The compiled loops give an activation the same bits whatever else is in the batch.
UNIT = 256


def pursue_among_ranks(
    pursuit: PursuitName,
    x: Float[Tensor, "batch d"],
    prepared: PreparedAtoms,
    k: int,
    nonnegative: bool = False,
    error_threshold: float | Float[Tensor, " batch"] | None = None,
) -> SparseCode:
    """Encode as ``pursue`` does, called by all processes with the same arguments; the same bits on any number of them.

    Processes send their codes only: ``12 k + 4`` bytes per activation in single precision.
    """
    problem = Problem(x, k, nonnegative, error_threshold)
    unit = 1 if prepared.compiled else UNIT
    parts = shares(len(x), unit)
    mine = parts[rank()]
    codes = []
    for part in _cut(mine, len(x) if prepared.compiled else unit):
        share = problem.part(part)
        codes.append(pursue(pursuit, share.x, prepared, k, nonnegative, share.error_threshold))
    code = SparseCode.concatenate(codes)
    counts = [part.stop - part.start for part in parts]
    return SparseCode(*(gather_rows(values, counts) for values in code))


def _cut(part: slice, size: int) -> list[slice]:
    starts = range(part.start, part.stop, max(size, 1)) or [part.start]
    return [slice(start, min(start + size, part.stop)) for start in starts]
