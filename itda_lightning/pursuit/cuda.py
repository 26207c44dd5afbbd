"""Pursuits in the Gram form on CUDA devices, by the Triton kernel. Importing this module needs Triton."""

import logging
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.pursuit.algorithm import Pursuit
from itda_lightning.pursuit.code import SparseCode
from itda_lightning.pursuit.correlation import combine, correlate
from itda_lightning.pursuit.gram import padded
from itda_lightning.pursuit.kernels import triton_kernels
from itda_lightning.pursuit.prepared import PreparedAtoms
from itda_lightning.pursuit.problem import MIN_NEW_DIRECTION, Problem

logger = logging.getLogger(__name__)

# Bytes that a block of rows works in: thousands of rows, which keep every processor of a large device busy.
BLOCK_BYTES = 256 * 2**20
# Activations of one product with the atoms: products round by their shape, so codes do not depend on how many blocks
# there are, and a device that runs out of memory goes on with smaller ones to the same bits.
UNIT = 1024
# Scores a program works on at a time. Not fewer than its threads: see the kernels' module.
BLOCK, WARPS = 1024, 4
# Scores that a program can hold through all steps, and how many of them each of its threads holds.
MOST_RESIDENT, PER_THREAD = 32_768, 32


def encode(pursuit: Pursuit, problem: Problem, prepared: PreparedAtoms) -> SparseCode:
    """Encode with the Gram of the prepared atoms."""
    assert prepared.gram is not None
    gram = prepared.gram[: prepared.n, : prepared.n]
    return gram_pursuit(pursuit.orthogonal, problem, prepared.atoms, gram, min(BLOCK_BYTES, prepared.budget // 8))


def gram_pursuit(
    orthogonal: bool,
    problem: Problem,
    atoms: Float[Tensor, "n d"],
    gram: Float[Tensor, "n n"],
    block_bytes: int = BLOCK_BYTES,
    most_resident: int = MOST_RESIDENT,
) -> SparseCode:
    """Encode in single precision, on a CUDA device (in Triton's interpreter: anywhere); a path is contiguous float32.

    The Gram may be a corner of a larger matrix. In float16 supports are only those of the rounded Gram.
    """
    k = problem.k
    rows = max(1, block_bytes // (4 * padded(len(atoms)) + (8 * k * k if orthogonal else 0)))
    unit = min(rows, UNIT)

    def encoded(block: Problem) -> SparseCode:
        support, coefficients = _run(orthogonal, block, atoms, gram, most_resident)
        residual = block.x - combine(support, coefficients, atoms)
        return SparseCode(support, coefficients, residual.double().square().sum(-1).to(block.x.dtype))

    return problem.encoded(rows // unit * unit, torch.promote_types(atoms.dtype, torch.float32), encoded, unit)


@cache
def works_on(device: torch.device) -> bool:
    """Check that the kernels compile on this device and give exact codes there; if not, log it: torch does the work.

    A problem with a known answer, larger than the device can run at once: combinations of orthonormal atoms, which a
    pursuit of either kind finds exactly, largest first. It takes as long as compiling the kernels.
    """
    generator = torch.Generator().manual_seed(0)
    n, batch, k = 512, 2048, 8
    support = torch.rand(batch, n, generator=generator).argsort(1)[:, :k].to(device)
    coefficients = (torch.arange(k, 0, -1) * (-1.0) ** torch.arange(k)).expand(batch, k).to(device)
    atoms = torch.eye(n, device=device)
    x = torch.zeros(batch, n, device=device).scatter_(1, support, coefficients)
    try:
        codes = [
            gram_pursuit(orthogonal, Problem(x, k), atoms, atoms, most_resident=most_resident)
            for orthogonal in (False, True)
            for most_resident in (MOST_RESIDENT, 0)  # in registers, and in blocks
        ]
        right = all(torch.equal(c.support, support) and torch.equal(c.coefficients, coefficients) for c in codes)
        problem = "it gives wrong codes"
    except Exception as error:  # an unsupported device, a missing compiler
        right, problem = False, str(error).split("\n", 1)[0]
    if not right:
        logger.warning("pursuits on %s run in plain torch, slower: the Triton kernel fails there (%s)", device, problem)
    return right


def _run(
    orthogonal: bool, problem: Problem, atoms: Float[Tensor, "n d"], gram: Float[Tensor, "n n"], most_resident: int
) -> tuple[Int[Tensor, "batch k"], Float[Tensor, "batch k"]]:
    x, k, path = problem.x, problem.k, problem.path
    batch, n, width = len(x), len(atoms), _readable_width(gram)
    visible = problem.visible if problem.visible is not None else torch.full((batch,), n, device=x.device)
    support = torch.full((batch, k), -1, device=x.device)
    coefficients = torch.zeros(batch, k, dtype=torch.float64, device=x.device)
    inverse = torch.empty((batch, k, k) if orthogonal else 1, dtype=torch.float64, device=x.device)
    energy, floor, target = problem.limits()
    best, history = (path.best, path.history) if path is not None else (coefficients, coefficients)  # else never used
    alpha = x.new_zeros(batch, width)
    for part, scores in zip(x.split(UNIT), alpha.split(UNIT), strict=True):
        correlate(part, atoms, out=scores[:, :n])
    room, k_room = max(BLOCK, 1 << (width - 1).bit_length()), 1 << (k - 1).bit_length()  # powers of two only
    resident = room <= most_resident
    block, warps = (room, max(WARPS, room // (32 * PER_THREAD))) if resident else (BLOCK, WARPS)
    limits = visible.contiguous(), energy, target, floor
    with torch.cuda.device_of(x):  # Triton launches on the current device
        if resident and not orthogonal:
            triton_kernels.match_rows[(batch,)](
                alpha, gram, *limits, support, coefficients, best, history, width, gram.stride(0), k,
                NONNEGATIVE=problem.nonnegative, PATH=path is not None, BLOCK=block, K=k_room, num_warps=warps,
            )  # fmt: skip
        else:
            triton_kernels.pursue_rows[(batch,)](
                alpha, gram, inverse, *limits, support, coefficients, best, history, width, gram.stride(0), k,
                ORTHOGONAL=orthogonal, NONNEGATIVE=problem.nonnegative, PATH=path is not None,
                MIN_NEW_DIRECTION=MIN_NEW_DIRECTION, RESIDENT=resident, BLOCK=block, K=k_room,
                num_warps=warps,
            )  # fmt: skip
    return support, coefficients.to(x.dtype)


def _readable_width(gram: Float[Tensor, "n n"]) -> int:
    """Return how many entries of each row to read: a round number if the matrix has them, so that loads are wide."""
    n, width = len(gram), padded(len(gram))
    end = gram.storage_offset() + (n - 1) * gram.stride(0) + width
    return width if end * gram.itemsize <= gram.untyped_storage().nbytes() else n
