"""Pursuits on the CPU by the compiled loops: blocks of activations, screening products, threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.pursuit.code import SparseCode
from itda_lightning.pursuit.correlation import correlate
from itda_lightning.pursuit.generalised import steps_of
from itda_lightning.pursuit.gram import UNIT
from itda_lightning.pursuit.kernels import generalised_rows as generalised_kernels
from itda_lightning.pursuit.kernels import pursuits as kernels
from itda_lightning.pursuit.kernels.jit import Atoms
from itda_lightning.pursuit.kernels.screening import GROUP
from itda_lightning.pursuit.limits import MIN_NEW_DIRECTION, NOISE_FLOOR, threshold_of
from itda_lightning.pursuit.path import Path
from itda_lightning.pursuit.prepared import PART, PreparedAtoms

# Scores of one block: large enough for efficient products, small enough to stay in the cache.
BLOCK_BYTES = 16 * 2**20
# Without a Gram: activations that go through all atoms together.
BLOCK_ROWS = 1024
# Rounding to bfloat16 moves a number by at most this share of it (a little more, of what it was rounded to).
HALF_ROUNDING = 1.01 * 2.0**-8
# Pieces of work a thread: some rows end early.
PIECES = 4


class Room(NamedTuple):
    """Memory for the scores of a block, in two precisions; fresh memory for each block would cost more than the sums."""

    single: Float[Tensor, "rows width"]
    half: Float[Tensor, "rows m"]

    @classmethod
    def empty(cls, rows: int, atoms: int) -> "Room":
        """For this many rows and atoms at a time."""
        width = -(-atoms // GROUP) * GROUP
        return cls(torch.zeros(rows, width), torch.empty(rows, atoms, dtype=torch.bfloat16))


class Screen(NamedTuple):
    """Scores of a block with a part of the atoms, and the bound of their errors.

    Attributes:
        scores: (batch, groups, GROUP) float32; the last group ends in zeros.
        error: (batch,) float32 bound.
        relative: further error, as a share of the row's largest |score|.
    """

    scores: Float[Tensor, "batch groups group"]
    error: Float[Tensor, " batch"]
    relative: float


def pursue_compiled(
    orthogonal: bool,
    x: Float[Tensor, "batch d"],
    prepared: PreparedAtoms,
    k: int,
    nonnegative: bool,
    error_threshold: float | Tensor | None,
    path: Path | None,
    visible: Int[Tensor, " batch"] | None,
) -> SparseCode:
    """Codes of activations, in float32. Inputs are valid and there is at least one atom and one activation."""
    block = min(len(x), rows_at_a_time(prepared, k))
    room = Room.empty(block, prepared.n if prepared.gram is not None else min(PART, prepared.n))
    codes = []
    for start in range(0, len(x), block):
        part = slice(start, start + block)
        rows = x[part].to(torch.float32).contiguous()
        seen = torch.full((len(rows),), prepared.n) if visible is None else visible[part].contiguous()
        steps = path.rows(part) if path is not None else None
        run = _with_gram if prepared.gram is not None else _without_gram
        threshold = threshold_of(error_threshold, part)
        codes.append(run(orthogonal, rows, prepared, k, nonnegative, threshold, steps, seen, room))
    return SparseCode(*(torch.cat(parts) for parts in zip(*codes, strict=True)))


def rows_at_a_time(prepared: PreparedAtoms, k: int) -> int:
    """Activations whose working memory stays near the cache and within a quarter of the budget."""
    if prepared.gram is not None:
        return max(1, min(BLOCK_BYTES, prepared.budget // 4) // (6 * max(1, prepared.n)))
    return _rows_without_gram(prepared, k)


def _rows_without_gram(prepared: PreparedAtoms, k: int) -> int:
    # Residuals in two precisions, the factors of an orthogonal pursuit, scores in two precisions.
    per_row = 6 * prepared.d_in + 8 * k * k + 6 * min(PART, prepared.n)
    return max(1, min(BLOCK_ROWS, prepared.budget // 4 // per_row))


def screen(
    x: Float[Tensor, "batch d"], prepared: PreparedAtoms, first: int, last: int, room: Room, half: bool
) -> Screen:
    """Scores of the atoms ``first..last``, in bfloat16 (``half``) or float32."""
    count = last - first
    scores = room.single[: len(x)]
    scores[:, count:] = 0
    error, relative = torch.zeros(len(x)), 0.0
    if not half:
        correlate(x, prepared.rows[first:last], out=scores[:, :count])
    else:
        rounded = x.to(torch.bfloat16)
        # Of another width than the room, the products would not lie in rows of their own.
        products = room.half[: len(x)] if count == room.half.shape[1] else room.half.new_empty(len(x), count)
        scores[:, :count] = torch.mm(rounded, prepared.in_half(first, last).T, out=products)
        # Norms in double precision: squares of huge and of tiny activations leave the range of float32.
        lost = torch.linalg.vector_norm(x - rounded.float(), dim=1, dtype=torch.float64)
        whole = torch.linalg.vector_norm(x, dim=1, dtype=torch.float64)
        error = (lost * (1.01 + prepared.coarse_error) + whole * prepared.coarse_error).float()
        relative = HALF_ROUNDING
    return Screen(scores.view(len(x), -1, GROUP), error, relative)


def _with_gram(
    orthogonal: bool,
    x: Float[Tensor, "batch d"],
    prepared: PreparedAtoms,
    k: int,
    nonnegative: bool,
    error_threshold: float | Tensor | None,
    path: Path | None,
    visible: Int[Tensor, " batch"],
    room: Room,
) -> SparseCode:
    assert prepared.gram is not None
    screened = screen(x, prepared, 0, prepared.n, room, prepared.half_with_gram)
    examined = torch.zeros(len(x), dtype=torch.int64)
    code = SparseCode(torch.full((len(x), k), -1), torch.zeros(len(x), k), torch.zeros(len(x), dtype=torch.float64))
    best, history = _path_arrays(path, k)
    arrays = (
        x.numpy(), entries(prepared.rows), screened.scores.numpy(), prepared.gram.numpy(), UNIT,
        screened.error.numpy(), screened.relative, rounding(x.shape[1]), visible.numpy(), _targets(x, error_threshold),
        NOISE_FLOOR, orthogonal, nonnegative, MIN_NEW_DIRECTION,
        code.support.numpy(), code.coefficients.numpy(), code.residual_energy.numpy(), best, history,
        examined.numpy(),
    )  # fmt: skip
    _in_threads(kernels.pursue_rows, len(x), *arrays)
    prepared.learn_examined(examined)
    return code._replace(residual_energy=code.residual_energy.float())


def _without_gram(
    orthogonal: bool,
    x: Float[Tensor, "batch d"],
    prepared: PreparedAtoms,
    k: int,
    nonnegative: bool,
    error_threshold: float | Tensor | None,
    path: Path | None,
    visible: Int[Tensor, " batch"],
    room: Room,
) -> SparseCode:
    batch = len(x)
    support, coefficients = torch.full((batch, k), -1), torch.zeros(batch, k, dtype=torch.float64)
    inverse = np.empty((batch if orthogonal else 1, k, k))
    energy = torch.linalg.vector_norm(x, dim=1, dtype=torch.float64).square().numpy()
    floor, target = NOISE_FLOOR * np.sqrt(energy), _targets(x, error_threshold)
    residual, atoms = x.clone(), entries(prepared.rows)
    active = energy > target
    best, history = _path_arrays(path, k)
    for step in range(k):
        rows = np.flatnonzero(active)
        if len(rows) == 0:
            break
        moving = residual[torch.from_numpy(rows)] if len(rows) < batch else residual
        chosen, score = np.zeros(batch, np.int64), np.full(batch, -np.inf)
        for first in range(0, prepared.n, PART):
            last = min(prepared.n, first + PART)
            screened = screen(moving, prepared, first, last, room, prepared.half)
            _in_threads(
                kernels.select_in_part, len(rows), rows, screened.scores.numpy(), first, last - first, residual.numpy(),
                atoms, screened.error.numpy(), screened.relative, rounding(x.shape[1]), visible.numpy(),
                nonnegative, chosen, score,
            )  # fmt: skip
        _in_threads(
            kernels.take_rows, len(rows), rows, step, x.numpy(), atoms, residual.numpy(), chosen, score,
            target, floor, active, orthogonal, nonnegative, MIN_NEW_DIRECTION, support.numpy(), coefficients.numpy(),
            inverse, energy, best, history,
        )  # fmt: skip
    return SparseCode(support, coefficients.float(), torch.from_numpy(energy).float())


def pursue_generalised_compiled(
    x: Float[Tensor, "batch d"],
    prepared: PreparedAtoms,
    k: int,
    nonnegative: bool,
    error_threshold: float | Tensor | None,
) -> SparseCode:
    """Codes by the generalised pursuit, in float32: a product with all atoms a step, and no Gram."""
    block = min(len(x), _rows_without_gram(prepared, k))
    room = Room.empty(block, min(PART, prepared.n))
    atoms, codes = entries(prepared.rows), []
    for start in range(0, len(x), block):
        part = slice(start, start + block)
        rows, threshold = x[part].to(torch.float32).contiguous(), threshold_of(error_threshold, part)
        codes.append(_generalised(rows, prepared, atoms, k, nonnegative, threshold, room))
    return SparseCode(*(torch.cat(parts) for parts in zip(*codes, strict=True)))


def _generalised(
    x: Float[Tensor, "batch d"],
    prepared: PreparedAtoms,
    atoms: Atoms,
    k: int,
    nonnegative: bool,
    error_threshold: float | Tensor | None,
    room: Room,
) -> SparseCode:
    batch = len(x)
    support, coefficients = torch.full((batch, k), -1), torch.zeros(batch, k, dtype=torch.float64)
    gram, projections = np.empty((batch, k, k)), np.empty((batch, k))
    energy = torch.linalg.vector_norm(x, dim=1, dtype=torch.float64).square().numpy()
    floor, target = NOISE_FLOOR * np.sqrt(energy), _targets(x, error_threshold)
    residual, active = x.clone(), energy > target
    for new in steps_of(k):
        rows = np.flatnonzero(active)
        if len(rows) == 0:
            break
        moving = residual[torch.from_numpy(rows)] if len(rows) < batch else residual
        chosen = np.full((batch, new.stop - new.start), -1)
        score = np.zeros(chosen.shape)
        for first in range(0, prepared.n, PART):
            last = min(prepared.n, first + PART)
            screened = screen(moving, prepared, first, last, room, prepared.half)
            _in_threads(
                generalised_kernels.select_several, len(rows), rows, screened.scores.numpy(), first, last - first,
                residual.numpy(), atoms, screened.error.numpy(), screened.relative, rounding(x.shape[1]), nonnegative,
                support.numpy(), chosen, score,
            )  # fmt: skip
        _in_threads(
            generalised_kernels.take_several, len(rows), rows, new.start, x.numpy(), atoms, residual.numpy(), chosen,
            score, target, floor, active, nonnegative, MIN_NEW_DIRECTION, support.numpy(), coefficients.numpy(), gram,
            projections, energy,
        )  # fmt: skip
    order = (support < 0).to(torch.int8).argsort(dim=1, stable=True)
    support, coefficients = support.gather(1, order), coefficients.gather(1, order).float()
    return SparseCode(support, coefficients, torch.from_numpy(energy).float())


def entries(rows: Float[Tensor, "n d"]) -> Atoms:
    """The same memory as the compiled loops take it: bfloat16, which numpy does not know, as its bits."""
    return rows.view(torch.uint16).numpy() if rows.dtype == torch.bfloat16 else rows.numpy()


def rounding(d: int) -> float:
    """Error of a float32 inner product of d terms, relative to the product of norms: many times what is ever seen."""
    return (d / 16 + 32) * 2.0**-24


def _targets(x: Tensor, error_threshold: float | Tensor | None) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Residual energies at which the rows end; nothing ends at a negative one, but all-zero rows never start."""
    if error_threshold is None:
        return np.zeros(len(x))
    return (torch.linalg.vector_norm(x, dim=1, dtype=torch.float64).square() * error_threshold).numpy()


def _path_arrays(path: Path | None, k: int) -> tuple[Any, Any]:
    if path is None:
        return np.empty((0, k), np.float32), np.empty((0, k, k), np.float32)
    return path.best.numpy(), path.history.numpy()


def _in_threads(kernel: Callable[..., None], count: int, *arrays: Any) -> None:
    """Call the kernel on pieces of ``range(count)`` in as many threads as torch uses; kernels release the interpreter."""
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        kernel(0, count, *arrays)
        return
    edges = np.linspace(0, count, min(count, threads * PIECES) + 1).astype(int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda piece: kernel(*piece, *arrays), pairwise(edges)))
