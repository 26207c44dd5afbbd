"""Pursuits on the CPU by the compiled loops: blocks of activations, screening products, threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.pursuit.algorithm import Pursuit
from itda_lightning.pursuit.coarse import PART
from itda_lightning.pursuit.code import SparseCode
from itda_lightning.pursuit.correlation import correlate
from itda_lightning.pursuit.generalised import unused_last
from itda_lightning.pursuit.gram import UNIT
from itda_lightning.pursuit.kernels import gram_rows, named_arrays
from itda_lightning.pursuit.kernels.jit import Atoms
from itda_lightning.pursuit.kernels.screening import GROUP
from itda_lightning.pursuit.prepared import PreparedAtoms
from itda_lightning.pursuit.problem import MIN_NEW_DIRECTION, NOISE_FLOOR, Problem

# Scores of one block: large enough for efficient products, small enough to stay in the cache.
BLOCK_BYTES = 16 * 2**20
# Without a Gram: activations that go through all atoms together.
BLOCK_ROWS = 1024
# Rounding to bfloat16 moves a number by at most this share of it (a little more, of what it was rounded to).
HALF_ROUNDING = 1.01 * 2.0**-8
# Pieces of work per thread: some rows end early.
PIECES = 4


class ScoreRoom(NamedTuple):
    """Memory for the scores of a block, in two precisions; fresh memory per block would cost more than the sums."""

    single: Float[Tensor, "rows width"]
    half: Float[Tensor, "rows m"]

    @classmethod
    def empty(cls, rows: int, atoms: int) -> "ScoreRoom":
        """Allocate for this many rows, and atoms at a time."""
        width = -(-atoms // GROUP) * GROUP
        return cls(torch.zeros(rows, width), torch.empty(rows, atoms, dtype=torch.bfloat16))


def encode(pursuit: Pursuit, problem: Problem, prepared: PreparedAtoms) -> SparseCode:
    """Encode in float32; at least one atom and one activation."""
    takes_gram = pursuit.takes_gram and prepared.gram is not None
    size = min(len(problem.x), rows_at_a_time(prepared, problem.k, takes_gram))
    room = ScoreRoom.empty(size, prepared.n if takes_gram else min(PART, prepared.n))
    run = _with_gram if takes_gram else _without_gram
    blocks = problem.blocks(size, torch.float32)
    return SparseCode.concatenate(
        run(pursuit, block._replace(x=block.x.contiguous()), prepared, room) for block in blocks
    )


def rows_at_a_time(prepared: PreparedAtoms, k: int, takes_gram: bool) -> int:
    """Return how many activations have working memory near the cache and within a quarter of the budget."""
    if takes_gram:
        return max(1, min(BLOCK_BYTES, prepared.budget // 4) // (6 * max(1, prepared.n)))
    # Residuals in two precisions, the factors of an orthogonal pursuit, scores in two precisions.
    per_row = 6 * prepared.d_in + 8 * k * k + 6 * min(PART, prepared.n)
    return max(1, min(BLOCK_ROWS, prepared.budget // 4 // per_row))


def screen(
    x: Float[Tensor, "batch d"], prepared: PreparedAtoms, part: range, room: ScoreRoom, half: bool
) -> named_arrays.Screen:
    """Score a part of the atoms, in bfloat16 (``half``) or float32."""
    first, last, count = part.start, part.stop, len(part)
    scores = room.single[: len(x)]
    scores[:, count:] = 0
    error, relative = torch.zeros(len(x)), 0.0
    if not half:
        correlate(x, prepared.rows[first:last], out=scores[:, :count])
    else:
        rounded = x.to(torch.bfloat16)
        # If they were narrower than the room, the products would not lie in rows of their own.
        products = room.half[: len(x)] if count == room.half.shape[1] else room.half.new_empty(len(x), count)
        scores[:, :count] = torch.mm(rounded, prepared.coarse.part(first, last).T, out=products)
        # Norms in double precision: squares of huge and of tiny activations leave the range of float32.
        lost = torch.linalg.vector_norm(x - rounded.float(), dim=1, dtype=torch.float64)
        whole = torch.linalg.vector_norm(x, dim=1, dtype=torch.float64)
        error = (lost * (1.01 + prepared.coarse.error) + whole * prepared.coarse.error).float()
        relative = HALF_ROUNDING
    return named_arrays.Screen(scores.view(len(x), -1, GROUP).numpy(), error.numpy(), relative, first, count)


def kernel_problem(
    x: Float[Tensor, "batch d"],
    prepared: PreparedAtoms,
    visible: Tensor | None,
    target: Float[Tensor, " batch"],
    orthogonal: bool,
    nonnegative: bool,
) -> named_arrays.Problem:
    """Return a problem as the compiled loops take it."""
    seen = torch.full((len(x),), prepared.n) if visible is None else visible.contiguous()
    # Many times the error of a float32 inner product of d terms that is ever seen.
    rounding = (x.shape[1] / 16 + 32) * 2.0**-24
    limits = NOISE_FLOOR, MIN_NEW_DIRECTION, rounding
    arrays = x.numpy(), entries(prepared.rows), seen.numpy(), target.numpy()
    return named_arrays.Problem(*arrays, *limits, orthogonal, nonnegative)


def kernel_gram(prepared: PreparedAtoms) -> named_arrays.Gram:
    """Return the Gram as the compiled loops take it."""
    assert prepared.gram is not None
    return named_arrays.Gram(prepared.gram.numpy(), UNIT)


def entries(rows: Float[Tensor, "n d"]) -> Atoms:
    """Return the same memory as the compiled loops take it: bfloat16, which numpy does not know, as its bits."""
    return rows.view(torch.uint16).numpy() if rows.dtype == torch.bfloat16 else rows.numpy()


def _with_gram(pursuit: Pursuit, problem: Problem, prepared: PreparedAtoms, room: ScoreRoom) -> SparseCode:
    x, k = problem.x, problem.k
    screened = screen(x, prepared, range(prepared.n), room, prepared.coarse.used_with_gram)
    energy = torch.zeros(len(x), dtype=torch.float64)
    support, coefficients = torch.full((len(x), k), -1), torch.zeros(len(x), k)
    examined = torch.zeros(len(x), dtype=torch.int64)
    code = named_arrays.Code(support.numpy(), coefficients.numpy(), energy.numpy())
    loops = _kernel_problem(pursuit, problem, prepared), screened, kernel_gram(prepared), code, _path(problem)
    _in_threads(gram_rows.pursue_rows, len(x), *loops, examined.numpy())
    prepared.coarse.learn_examined(examined, prepared.n)
    return SparseCode(support, coefficients, energy.float())


def _without_gram(pursuit: Pursuit, problem: Problem, prepared: PreparedAtoms, room: ScoreRoom) -> SparseCode:
    x, k, batch = problem.x, problem.k, len(problem.x)
    support, coefficients = torch.full((batch, k), -1), torch.zeros(batch, k, dtype=torch.float64)
    energy, residual = torch.linalg.vector_norm(x, dim=1, dtype=torch.float64).square(), x.clone()
    loops, kernels, path = _kernel_problem(pursuit, problem, prepared), pursuit.loops(), _path(problem)
    factors = batch if pursuit.orthogonal else 1
    progress = named_arrays.Progress(
        rows=np.arange(batch),
        active=energy.numpy() > loops.target,
        support=support.numpy(),
        coefficients=coefficients.numpy(),
        energy=energy.numpy(),
        residual=residual.numpy(),
        floor=NOISE_FLOOR * np.sqrt(energy.numpy()),
        matrix=np.empty((factors, k, k)),
        vector=np.empty((factors, k)),
    )
    steps = pursuit.steps(k)
    for columns in steps:
        rows = np.flatnonzero(progress.active)
        if len(rows) == 0:
            break
        progress = progress._replace(rows=rows)
        moving = residual[torch.from_numpy(rows)] if len(rows) < batch else residual
        width = columns.stop - columns.start
        choice = named_arrays.Choice(np.full((batch, width), -1), np.zeros((batch, width)))
        for first in range(0, prepared.n, PART):
            part = range(first, min(prepared.n, first + PART))
            screened = screen(moving, prepared, part, room, prepared.coarse.used)
            _in_threads(kernels.select, len(rows), loops, screened, progress, choice)
        _in_threads(kernels.take, len(rows), columns.start, loops, progress, choice, path)
    if len(steps) < k:
        support, coefficients = unused_last(support, coefficients)
    return SparseCode(support, coefficients.float(), energy.float())


def _kernel_problem(pursuit: Pursuit, problem: Problem, prepared: PreparedAtoms) -> named_arrays.Problem:
    """Set the targets: 0 without a threshold, so that all-zero rows never start."""
    x, threshold = problem.x, problem.error_threshold
    target = torch.zeros(len(x), dtype=torch.float64)
    if threshold is not None:
        target = torch.linalg.vector_norm(x, dim=1, dtype=torch.float64).square() * threshold
    return kernel_problem(x, prepared, problem.visible, target, pursuit.orthogonal, problem.nonnegative)


def _path(problem: Problem) -> named_arrays.Path:
    if problem.path is None:
        k = problem.k
        return named_arrays.Path(np.empty((0, k), np.float32), np.empty((0, k, k), np.float32))
    return named_arrays.Path(problem.path.best.numpy(), problem.path.history.numpy())


def _in_threads(kernel: Callable[..., None], count: int, *arguments: Any) -> None:
    """Call the kernel on pieces of ``range(count)`` in as many threads as torch uses."""
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        kernel(0, count, *arguments)
        return
    edges = np.linspace(0, count, min(count, threads * PIECES) + 1).astype(int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda piece: kernel(*piece, *arguments), pairwise(edges)))
