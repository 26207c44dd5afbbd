"""The validated public functions: they check, choose a form, work in blocks and measure the residual."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.pursuit.code import SparseCode
from itda_lightning.pursuit.correlation import (
    Correlations,
    GramCorrelations,
    ResidualCorrelations,
    VisibleCorrelations,
    combine,
)
from itda_lightning.pursuit.matching import run_matching_pursuit
from itda_lightning.pursuit.orthogonal import run_orthogonal_matching_pursuit
from itda_lightning.pursuit.path import Path

PursuitName = Literal["mp", "omp"]

# Bytes of one block's correlations: large enough for efficient products, small enough to stay near the cache.
BLOCK_BYTES = 32 * 2**20
UNIT_NORM_TOLERANCE = 1e-2


def pursue(
    pursuit: PursuitName,
    x: Float[Tensor, "batch d"],
    atoms: Float[Tensor, "n d"],
    k: int,
    nonnegative: bool = False,
    error_threshold: float | None = None,
    gram: Float[Tensor, "n n"] | None = None,
    path: Path | None = None,
    visible: Int[Tensor, " batch"] | None = None,
) -> SparseCode:
    """The pursuit named ``pursuit`` without the checks of the public functions; inputs are finite and atoms unit rows.

    Half-precision inputs are computed in float32. The result's ``residual_energy`` is measured on the reconstruction.
    A ``path`` is filled in. With ``visible``, (batch,) int64, each sample uses only that many of the first atoms.
    """
    dtype = torch.promote_types(torch.promote_types(x.dtype, atoms.dtype), torch.float32)
    x, atoms = x.detach().to(dtype), atoms.detach().to(dtype)
    gram = gram.to(dtype) if gram is not None else None
    run = run_matching_pursuit if pursuit == "mp" else run_orthogonal_matching_pursuit
    n = len(atoms)
    # Per sample: n correlations, and for OMP a k x k factor in float64.
    rows = max(1, BLOCK_BYTES // (max(n, 2 * k * k if pursuit == "omp" else 1) * dtype.itemsize))
    blocks = []
    for start, block in zip(range(0, len(x), rows), x.split(rows), strict=True) if n and len(x) else []:
        correlations: Correlations = (
            GramCorrelations(block, atoms, gram) if gram is not None else ResidualCorrelations(block, atoms)
        )
        if visible is not None:
            correlations = VisibleCorrelations(correlations, visible[start : start + rows])
        steps = path.rows(slice(start, start + rows)) if path is not None else None
        code = run(block, correlations, k, nonnegative, error_threshold, steps)
        residual = block - combine(code.support, code.coefficients, atoms)
        blocks.append(code._replace(residual_energy=residual.double().square().sum(-1).to(dtype)))
    if not blocks:
        if path is not None:
            path.best[:, 0] = 0.0  # any atom would win the first step
        support = torch.full((len(x), k), -1, dtype=torch.int64, device=x.device)
        return SparseCode(support, x.new_zeros(len(x), k), x.double().square().sum(-1).to(dtype))
    return SparseCode(*(torch.cat(parts) for parts in zip(*blocks, strict=True)))


def matching_pursuit(
    x: Float[Tensor, "batch d"],
    atoms: Float[Tensor, "n d"],
    k: int,
    nonnegative: bool = False,
    error_threshold: float | None = None,
) -> SparseCode:
    """Sparse codes by matching pursuit: Algorithm 2 of arXiv 2505.17769 (Mallat and Zhang 1993).

    Args:
        x: (batch, d) activations, any floating dtype.
        atoms: (n, d) unit-norm rows.
        k: the number of steps, so the largest L0; an atom may be picked again.
        nonnegative: only positive correlations are eligible and coefficients are non-negative; otherwise the largest
            |correlation| is taken and coefficients are signed, as published.
        error_threshold: a sample ends once its residual energy is at most this fraction of ``|x|^2``; None for never.

    Returns:
        A ``SparseCode``: support (batch, k), coefficients (batch, k), residual_energy (batch,).

    Raises:
        ValueError: shapes that do not match, k < 1, a threshold outside [0, 1], non-finite x, atoms that are not unit
            rows.
        TypeError: inputs that are not floating-point.
    """
    return _checked("mp", x, atoms, k, nonnegative, error_threshold)


def orthogonal_matching_pursuit(
    x: Float[Tensor, "batch d"],
    atoms: Float[Tensor, "n d"],
    k: int,
    nonnegative: bool = False,
    error_threshold: float | None = None,
) -> SparseCode:
    """Sparse codes by orthogonal matching pursuit: Algorithm 1 of arXiv 2505.17769 (Pati et al. 1993).

    Arguments, results and errors are those of ``matching_pursuit``, except that coefficients are the least-squares
    ones on the support and no atom is picked twice. With ``nonnegative`` a sample ends as soon as its least-squares
    coefficients would not all be non-negative.
    """
    return _checked("omp", x, atoms, k, nonnegative, error_threshold)


def _checked(
    pursuit: PursuitName, x: Tensor, atoms: Tensor, k: int, nonnegative: bool, error_threshold: float | None
) -> SparseCode:
    for name, value in (("x", x), ("atoms", atoms)):
        if not value.is_floating_point():
            raise TypeError(f"{name} must be floating-point, got {value.dtype}: convert it with .float()")
        if value.ndim != 2:
            raise ValueError(f"{name} must have two dimensions, got shape {tuple(value.shape)}: reshape it to rows")
    if x.shape[1] != atoms.shape[1]:
        raise ValueError(
            f"x has {x.shape[1]} dimensions and atoms have {atoms.shape[1]}: they must come from the same hook point"
        )
    if x.device != atoms.device:
        raise ValueError(f"x is on {x.device} and atoms are on {atoms.device}: move one of them")
    check_sparsity(k)
    if error_threshold is not None and not 0 <= error_threshold <= 1:
        raise ValueError(f"error_threshold must be a fraction of |x|^2 in [0, 1], got {error_threshold}")
    bad = ~torch.isfinite(x).all(-1)
    if bad.any():
        raise ValueError(f"x has {int(bad.sum())} non-finite rows, the first is row {int(bad.nonzero()[0])}: drop them")
    check_unit_rows(atoms)
    gram = atoms.detach().float() @ atoms.detach().float().T if _gram_pays(len(x), len(atoms), k) else None
    if gram is not None and torch.promote_types(x.dtype, atoms.dtype) == torch.float64:
        gram = atoms.detach().double() @ atoms.detach().double().T
    return pursue(pursuit, x, atoms, k, nonnegative, error_threshold, gram)


def check_sparsity(k: int) -> None:
    """Raises ValueError unless k is at least 1."""
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}: it is the number of atoms that a code may use")


def check_unit_rows(atoms: Float[Tensor, "n d"]) -> None:
    """Raises ValueError unless every row is finite and of unit norm (within 1%, which half-precision storage needs)."""
    norms = torch.linalg.vector_norm(atoms.detach().float(), dim=1)
    wrong = ~((norms - 1).abs() <= UNIT_NORM_TOLERANCE)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"atoms must be unit rows: row {row} has norm {float(norms[row]):.6g}; "
            "divide by torch.linalg.vector_norm(atoms, dim=1, keepdim=True)"
        )


def _gram_pays(batch: int, n: int, k: int) -> bool:
    # A Gram's n^2 d multiply-adds are repaid after about n / (k - 1) activations.
    return k > 1 and n < batch * (k - 1) and n * n * 4 <= 2**31
