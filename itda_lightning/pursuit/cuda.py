"""Pursuits in the Gram form on CUDA devices, by the Triton kernel. Importing this module needs Triton."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.pursuit.code import SparseCode
from itda_lightning.pursuit.correlation import combine, correlate
from itda_lightning.pursuit.gram import padded
from itda_lightning.pursuit.kernels import triton_kernels
from itda_lightning.pursuit.limits import MIN_NEW_DIRECTION, NOISE_FLOOR, threshold_of
from itda_lightning.pursuit.path import Path

logger = logging.getLogger(__name__)

# Bytes that a block of rows works in: thousands of rows, which keep every processor of a large device busy.
BLOCK_BYTES = 256 * 2**20
# Scores a program works on at a time. Not fewer than its threads: see the kernels' module.
BLOCK, WARPS = 1024, 4


def gram_pursuit(
    orthogonal: bool,
    x: Float[Tensor, "batch d"],
    atoms: Float[Tensor, "n d"],
    gram: Float[Tensor, "n n"],
    k: int,
    nonnegative: bool = False,
    error_threshold: float | Tensor | None = None,
    path: Path | None = None,
    visible: Int[Tensor, " batch"] | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> SparseCode:
    """Codes in single precision. Inputs are valid and there is at least one atom and one activation.

    Args:
        x: (batch, d) finite activations, on a CUDA device (in Triton's interpreter: anywhere).
        atoms: (n, d) float32 or bfloat16.
        gram: (n, n) float32, or a corner of a larger matrix. In float16 supports are only those of the rounded Gram.
        k: the number of steps.
        nonnegative, error_threshold, visible: as for ``pursue``.
        path: filled in; contiguous float32.
        block_bytes: working memory.
    """
    rows = max(1, block_bytes // (4 * padded(len(atoms)) + (8 * k * k if orthogonal else 0)))
    codes = []
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        block = x[part].detach().to(torch.promote_types(atoms.dtype, torch.float32))
        seen = visible[part] if visible is not None else torch.full((len(block),), len(atoms), device=x.device)
        steps = path.rows(part) if path is not None else None
        threshold = threshold_of(error_threshold, part)
        support, coefficients = _run(orthogonal, block, atoms, gram, k, nonnegative, threshold, steps, seen)
        residual = block - combine(support, coefficients, atoms)
        codes.append(SparseCode(support, coefficients, residual.double().square().sum(-1).to(block.dtype)))
    return SparseCode(*(torch.cat(parts) for parts in zip(*codes, strict=True)))


@cache
def works_on(device: torch.device) -> bool:
    """Whether the kernel compiles on this device and gives exact codes there; else, said in the log, torch does the work.

    A problem with a known answer, larger than the device can run at once: combinations of orthonormal atoms, which a
    pursuit of either kind finds exactly, largest first. It takes as long as compiling the kernel.
    """
    generator = torch.Generator().manual_seed(0)
    n, batch, k = 512, 2048, 8
    support = torch.rand(batch, n, generator=generator).argsort(1)[:, :k].to(device)
    coefficients = (torch.arange(k, 0, -1) * (-1.0) ** torch.arange(k)).expand(batch, k).to(device)
    atoms = torch.eye(n, device=device)
    x = torch.zeros(batch, n, device=device).scatter_(1, support, coefficients)
    try:
        codes = [gram_pursuit(orthogonal, x, atoms, atoms, k) for orthogonal in (False, True)]
        right = all(torch.equal(c.support, support) and torch.equal(c.coefficients, coefficients) for c in codes)
        problem = "it gives wrong codes"
    except Exception as error:  # an unsupported device, a missing compiler
        right, problem = False, str(error).split("\n", 1)[0]
    if not right:
        logger.warning("pursuits on %s run in plain torch, slower: the Triton kernel fails there (%s)", device, problem)
    return right


def _run(
    orthogonal: bool,
    x: Float[Tensor, "batch d"],
    atoms: Float[Tensor, "n d"],
    gram: Float[Tensor, "n n"],
    k: int,
    nonnegative: bool,
    error_threshold: float | Tensor | None,
    path: Path | None,
    visible: Int[Tensor, " batch"],
) -> tuple[Int[Tensor, "batch k"], Float[Tensor, "batch k"]]:
    batch, n, width = len(x), len(atoms), _readable_width(gram)
    support = torch.full((batch, k), -1, device=x.device)
    coefficients = torch.zeros(batch, k, dtype=torch.float64, device=x.device)
    inverse = torch.empty((batch, k, k) if orthogonal else 1, dtype=torch.float64, device=x.device)
    energy = x.double().square().sum(-1)
    target = energy * (error_threshold if error_threshold is not None else -1.0)
    best, history = (path.best, path.history) if path is not None else (coefficients, coefficients)  # else never used
    alpha = x.new_zeros(batch, width)
    with _full_precision(x.device):
        correlate(x, atoms, out=alpha[:, :n])
    with torch.cuda.device_of(x):  # Triton launches on the current device
        triton_kernels.pursue_rows[(batch,)](
            alpha, gram, inverse, visible.contiguous(), energy, target, NOISE_FLOOR * energy.sqrt(), support, coefficients,
            best, history, width, gram.stride(0), k, ORTHOGONAL=orthogonal, NONNEGATIVE=nonnegative, PATH=path is not None,
            MIN_NEW_DIRECTION=MIN_NEW_DIRECTION, BLOCK=BLOCK, K=1 << (k - 1).bit_length(), num_warps=WARPS,
        )  # fmt: skip
    return support, coefficients.to(x.dtype)


def _readable_width(gram: Float[Tensor, "n n"]) -> int:
    """Entries to read of each row: as the Gram of a growing dictionary has them, a round number, so that loads are wide."""
    n, width = len(gram), padded(len(gram))
    end = gram.storage_offset() + (n - 1) * gram.stride(0) + width
    return width if end * gram.itemsize <= gram.untyped_storage().nbytes() else n


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Products in float32 proper: TF32 and autocast would round the correlations that decide which atom is picked."""
    matmul = torch.backends.cuda.matmul
    name, full = ("fp32_precision", "ieee") if hasattr(matmul, "fp32_precision") else ("allow_tf32", False)
    before = getattr(matmul, name)
    setattr(matmul, name, full)
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        setattr(matmul, name, before)
