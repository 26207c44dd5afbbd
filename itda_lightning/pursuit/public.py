"""Encode: the validated public functions, and ``pursue``, which chooses how to compute and checks nothing."""

from importlib.util import find_spec
from numbers import Integral

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.errors import InputError
from itda_lightning.machine.checks import check_at_least
from itda_lightning.machine.processes import gather_rows, rank, shares
from itda_lightning.pursuit.algorithm import Pursuit
from itda_lightning.pursuit.code import SparseCode
from itda_lightning.pursuit.correlation import Correlations, GramCorrelations, ResidualCorrelations, combine
from itda_lightning.pursuit.prepared import PreparedAtoms
from itda_lightning.pursuit.problem import Path, Problem
from itda_lightning.pursuit.table import PURSUITS, PursuitName

UNIT_NORM_TOLERANCE = 1e-2
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
CHECKED_ENTRIES = 2**24
# Products of plain torch round by their shape, so processes put activations through them in parts of this size, however
# many they are. The compiled loops give an activation the same bits whatever else is in the batch.
UNIT = 256


def pursue(
    pursuit: PursuitName,
    x: Float[Tensor, "batch d"],
    prepared: PreparedAtoms,
    k: int,
    nonnegative: bool = False,
    error_threshold: float | Float[Tensor, " batch"] | None = None,
    path: Path | None = None,
    visible: Int[Tensor, " batch"] | None = None,
) -> SparseCode:
    """Encode by the pursuit of that name without the checks of the public functions; see ``Problem``.

    Codes are computed in the precision of the prepared atoms, and ``residual_energy`` is measured on the residual.
    """
    problem, method = Problem(x.detach(), k, nonnegative, error_threshold, path, visible), PURSUITS[pursuit]
    if len(x) == 0 or prepared.n == 0:
        if path is not None:
            path.best[:, 0] = 0.0  # any atom would win the first step
        support, coefficients = x.new_full((len(x), k), -1, dtype=torch.int64), x.new_zeros(len(x), k)
        energy = torch.linalg.vector_norm(problem.x, dim=1, dtype=torch.float64).square()
        return SparseCode(support, coefficients.to(prepared.dtype), energy.to(prepared.dtype))
    if prepared.compiled and method.compiled:
        from itda_lightning.pursuit import compiled  # needs numba, which is there then

        return compiled.encode(method, problem, prepared)
    single_gram = prepared.gram is not None and prepared.gram.dtype == torch.float32
    if method.takes_gram and single_gram and x.device.type == "cuda" and find_spec("triton") is not None:
        from itda_lightning.pursuit import cuda  # imports triton, which comes with torch for CUDA only

        if cuda.works_on(x.device):
            return cuda.encode(method, problem, prepared)
    rows = method.rows_in_torch(prepared, k)
    return problem.encoded(rows, prepared.dtype, lambda block: _in_torch(method, block, prepared))


def pursue_among_ranks(
    pursuit: PursuitName,
    x: Float[Tensor, "batch d"],
    prepared: PreparedAtoms,
    k: int,
    nonnegative: bool = False,
    error_threshold: float | Float[Tensor, " batch"] | None = None,
) -> SparseCode:
    """Encode as ``pursue`` does, called by all processes with the same arguments; the same bits on any number of them.

    Each process encodes a share and sends its codes only: ``12 k + 4`` bytes per activation in single precision.
    """
    parts = shares(len(x), 1 if prepared.compiled else UNIT)
    mine = Problem(x, k, nonnegative, error_threshold).part(parts[rank()])
    blocks = mine.blocks(max(len(x), 1) if prepared.compiled else UNIT, x.dtype)
    code = SparseCode.concatenate(
        pursue(pursuit, block.x, prepared, k, nonnegative, block.error_threshold) for block in blocks
    )
    counts = [part.stop - part.start for part in parts]
    return SparseCode(*(gather_rows(values, counts) for values in code))


def _in_torch(pursuit: Pursuit, block: Problem, prepared: PreparedAtoms) -> SparseCode:
    """Encode in plain torch, on any device and in any precision."""
    x, atoms, gram = block.x, prepared.atoms, prepared.gram
    correlations: Correlations
    if pursuit.takes_gram and gram is not None:
        correlations = GramCorrelations(x, atoms, gram[: prepared.n, : prepared.n])
    else:
        correlations = ResidualCorrelations(x, atoms)
    if block.visible is not None:
        correlations.show_first(block.visible)
    code = pursuit.run(block, correlations)
    residual = x - combine(code.support, code.coefficients, atoms)
    return code._replace(residual_energy=residual.double().square().sum(-1).to(x.dtype))


def matching_pursuit(
    x: Float[Tensor, "batch d"],
    atoms: Float[Tensor, "n d"],
    k: int,
    nonnegative: bool = False,
    error_threshold: float | None = None,
    memory_budget: int | None = None,
) -> SparseCode:
    """Encode by matching pursuit: Algorithm 2 of arXiv 2505.17769 (Mallat and Zhang 1993).

    Args:
        x: (batch, d) activations, any floating dtype.
        atoms: (n, d) unit-norm rows.
        k: the number of steps, so the largest L0; an atom may be picked again.
        nonnegative: only positive correlations are eligible and coefficients are non-negative; otherwise the largest
            |correlation| is taken and coefficients are signed, as published.
        error_threshold: a sample ends once its residual energy is at most this fraction of ``|x|^2``; None for never.
        memory_budget: bytes to work in, beyond the arguments and the result; None for half of the machine's
            memory. It decides if the n x n Gram of the atoms is used, not what the codes are.

    Returns:
        A ``SparseCode``: support (batch, k), coefficients (batch, k), residual_energy (batch,).

    Raises:
        ValueError: shapes that do not match, k < 1, a threshold outside [0, 1], non-finite x, atoms that are not unit
            rows, a budget under 1 MiB.
        TypeError: inputs that are not of float16, bfloat16, float32 or float64.

    Example:
        >>> import torch
        >>> from itda_lightning import matching_pursuit
        >>> code = matching_pursuit(torch.tensor([[3.0, -4.0, 0.0]]), torch.eye(3), k=2)
        >>> code.support
        tensor([[1, 0]])
        >>> code.coefficients
        tensor([[-4.,  3.]])
    """
    return _checked("mp", x, atoms, k, nonnegative, error_threshold, memory_budget)


def orthogonal_matching_pursuit(
    x: Float[Tensor, "batch d"],
    atoms: Float[Tensor, "n d"],
    k: int,
    nonnegative: bool = False,
    error_threshold: float | None = None,
    memory_budget: int | None = None,
) -> SparseCode:
    """Encode by orthogonal matching pursuit: Algorithm 1 of arXiv 2505.17769 (Pati et al. 1993).

    Arguments, results and errors are those of ``matching_pursuit``, except that coefficients are the least-squares
    ones on the support and no atom is picked twice. With ``nonnegative`` a sample ends as soon as its least-squares
    coefficients would not all be non-negative.

    Example:
        >>> import torch
        >>> from itda_lightning import orthogonal_matching_pursuit
        >>> atoms = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
        >>> code = orthogonal_matching_pursuit(torch.tensor([[2.0, 0.8]]), atoms, k=2)
        >>> code.support
        tensor([[0, 1]])
        >>> (code.coefficients @ atoms - torch.tensor([[2.0, 0.8]])).abs().max() < 1e-6
        tensor(True)
    """
    return _checked("omp", x, atoms, k, nonnegative, error_threshold, memory_budget)


def generalised_orthogonal_matching_pursuit(
    x: Float[Tensor, "batch d"],
    atoms: Float[Tensor, "n d"],
    k: int,
    nonnegative: bool = False,
    error_threshold: float | None = None,
    memory_budget: int | None = None,
) -> SparseCode:
    """Encode by generalised orthogonal matching pursuit (Wang, Kwon and Shim 2012, arXiv 1111.6664).

    Arguments, results and errors are those of ``orthogonal_matching_pursuit``, except that a step takes a third of k
    atoms, rounded up. An atom that is linearly dependent on those before it leaves the support; so do, with
    ``nonnegative``, atoms whose least-squares coefficient is negative, until none is. So L0 may be less than k.

    Example:
        >>> import torch
        >>> from itda_lightning import generalised_orthogonal_matching_pursuit
        >>> x = torch.tensor([[1.0, 5.0, 3.0, 4.0, 2.0, 6.0]])
        >>> generalised_orthogonal_matching_pursuit(x, torch.eye(6), k=4).support  # two atoms per step
        tensor([[5, 1, 3, 2]])
    """
    return _checked("gomp", x, atoms, k, nonnegative, error_threshold, memory_budget)


def _checked(
    pursuit: PursuitName,
    x: Tensor,
    atoms: Tensor,
    k: int,
    nonnegative: bool,
    threshold: float | None,
    budget: int | None,
) -> SparseCode:
    for name, value in (("x", x), ("atoms", atoms)):
        if value.dtype not in DTYPES:
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
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"error_threshold must be a fraction of |x|^2 in [0, 1], got {threshold}")
    check_finite(x)
    check_unit_rows(atoms)
    if x.dtype == torch.float64:
        atoms = atoms.to(torch.float64)
    prepared = PreparedAtoms(atoms, len(atoms), budget)
    PURSUITS[pursuit].init(prepared, len(x), k)
    return pursue(pursuit, x, prepared, k, nonnegative, threshold)


def check_finite(x: Float[Tensor, "batch d"]) -> None:
    """Raise ValueError, naming the first bad row, unless every row is finite. Works in parts: x may be huge."""
    bad = torch.cat([~torch.isfinite(part).all(-1) for part in _in_parts(x)])
    if bad.any():
        raise ValueError(f"x has {int(bad.sum())} non-finite rows, the first is row {int(bad.nonzero()[0])}: drop them")


def check_sparsity(k: int) -> None:
    """Raise InputError unless k is a whole number of at least 1."""
    if isinstance(k, bool) or not isinstance(k, Integral):
        raise InputError(f"k must be a whole number, got {k!r:.60}")
    check_at_least(1, {"k": k}, "it is the number of atoms that a code may use")


def check_unit_rows(atoms: Float[Tensor, "n d"]) -> None:
    """Raise ValueError unless every row has unit norm (within 1%, which half-precision storage needs)."""
    norms = torch.cat([torch.linalg.vector_norm(part.float(), dim=1) for part in _in_parts(atoms)])
    wrong = ~((norms - 1).abs() <= UNIT_NORM_TOLERANCE)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"atoms must be unit rows: row {row} has norm {float(norms[row]):.6g}; "
            "divide by torch.linalg.vector_norm(atoms, dim=1, keepdim=True)"
        )


def _in_parts(rows: Float[Tensor, "n d"]) -> tuple[Tensor, ...]:
    """Cut into parts that may be copied in another precision: the whole may fill half the memory."""
    return rows.detach().split(max(1, CHECKED_ENTRIES // max(1, rows.shape[1])))
