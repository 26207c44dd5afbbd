"""Pursuits on the CPU by the compiled loops: blocks of activations, screening products, threads."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from itda_lightning.pursuit.algorithm import Pursuit
from itda_lightning.pursuit.coarse import PART, CoarseAtoms
from itda_lightning.pursuit.code import SparseCode
from itda_lightning.pursuit.correlation import correlate
from itda_lightning.pursuit.generalised import unused_last
from itda_lightning.pursuit.gram import UNIT
from itda_lightning.pursuit.kernels import gram_rows, named_arrays, products
from itda_lightning.pursuit.kernels.jit import Atoms
from itda_lightning.pursuit.kernels.screening import GROUP
from itda_lightning.pursuit.prepared import PreparedAtoms
from itda_lightning.pursuit.problem import MIN_NEW_DIRECTION, NOISE_FLOOR, Path, Problem

# Scores of one block: large enough for efficient products, small enough to stay in the cache.
BLOCK_BYTES = 16 * 2**20
# Without a Gram: activations that go through all atoms together.
BLOCK_ROWS = 1024
# Rounding to bfloat16 moves a number by at most this share of it (a little more, of what it was rounded to).
HALF_ROUNDING = 1.01 * 2.0**-8
# Pieces of work per thread: some rows end early.
PIECES = 4
# In a dictionary that grows, new atoms are scored from the residual until the block ends and the screen has them, so a
# block should append few.
LARGEST_BLOCK, SMALLEST_BLOCK, NEW_ATOMS_PER_BLOCK = 512, 16, 16


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
    blocks = (block._replace(x=block.x.contiguous()) for block in problem.blocks(size, torch.float32))
    if takes_gram:
        scores = ScoreRoom.empty(size, prepared.n)
        return SparseCode.concatenate(_with_gram(pursuit, block, prepared, scores) for block in blocks)
    dtype = torch.bfloat16 if prepared.coarse.used else torch.float32
    room = torch.empty(size * min(PART, prepared.n), dtype=dtype)
    return SparseCode.concatenate(_without_gram(pursuit, block, prepared, room) for block in blocks)


def rows_at_a_time(prepared: PreparedAtoms, k: int, takes_gram: bool) -> int:
    """Return how many activations have working memory near the cache and within a quarter of the budget."""
    if takes_gram:
        return max(1, min(BLOCK_BYTES, prepared.budget // 4) // (6 * max(1, prepared.n)))
    # Residuals, and those that move, also in bfloat16; the factors of an orthogonal pursuit; a part of the products.
    per_product = 2 if prepared.coarse.used else 4
    per_row = 10 * prepared.rows.shape[1] + 8 * k * k + per_product * min(PART, prepared.n)
    return max(1, min(BLOCK_ROWS, prepared.budget // 4 // per_row))


def screen(x: Float[Tensor, "batch d"], prepared: PreparedAtoms, room: ScoreRoom, half: bool) -> named_arrays.Screen:
    """Score all atoms, in bfloat16 (``half``) or float32."""
    n, scores, error, relative = prepared.n, room.single[: len(x)], torch.zeros(len(x)), 0.0
    scores[:, n:] = 0
    if half:
        whole = torch.linalg.vector_norm(x, dim=1, dtype=torch.float64)
        rounded, error = in_bfloat16(x, prepared.coarse, whole)
        relative = HALF_ROUNDING
        scores[:, :n] = torch.mm(rounded, prepared.coarse.part(0, n).T, out=room.half[: len(x)])
    else:
        correlate(x, prepared.atoms, out=scores[:, :n])
    return named_arrays.Screen(scores.view(len(x), -1, GROUP).numpy(), error.numpy(), relative, n)


def products_in_parts(
    x: Float[Tensor, "batch d"],
    prepared: PreparedAtoms,
    room: Float[Tensor, " entries"],
    without_support: bool,
    norms: Float[Tensor, " batch"],
) -> Iterator[named_arrays.Products]:
    """Yield the products with all atoms, ``PART`` atoms at a time, in the memory and the precision of ``room``."""
    half = room.dtype == torch.bfloat16
    rounded, error = in_bfloat16(x, prepared.coarse, norms) if half else (x, torch.zeros(len(x)))
    for first in range(0, prepared.n, PART):
        last = min(prepared.n, first + PART)
        out = room[: len(x) * (last - first)].view(len(x), -1)
        if half:
            torch.mm(rounded, prepared.coarse.part(first, last).T, out=out)
        else:
            correlate(x, prepared.rows[first:last], out=out)
        bits = out.view(torch.int16 if half else torch.int32).numpy()
        relative = HALF_ROUNDING if half else 0.0
        yield named_arrays.Products(bits, error.numpy(), relative, first, without_support)


def in_bfloat16(
    x: Float[Tensor, "batch d"], coarse: CoarseAtoms, whole: Float[Tensor, " batch"]
) -> tuple[Float[Tensor, "batch d"], Float[Tensor, " batch"]]:
    """Round activations of norms ``whole``; return also by how much sums of products with rounded atoms are off."""
    rounded = x.to(torch.bfloat16)
    # Norms in double precision: squares of huge and of tiny activations leave the range of float32.
    lost = torch.linalg.vector_norm(x - rounded.float(), dim=1, dtype=torch.float64)
    return rounded, (lost * (1.01 + coarse.error) + whole * coarse.error).float()


def kernel_problem(
    pursuit: Pursuit, problem: Problem, prepared: PreparedAtoms, target: Float[Tensor, " batch"] | None = None
) -> named_arrays.Problem:
    """Return a problem as the compiled loops take it; ``target`` replaces the one by its threshold."""
    x, visible = problem.x, problem.visible
    if target is None:
        target = torch.zeros(len(x), dtype=torch.float64)  # so that all-zero rows never start
        if problem.error_threshold is not None:
            target = torch.linalg.vector_norm(x, dim=1, dtype=torch.float64).square() * problem.error_threshold
    seen = torch.full((len(x),), prepared.n) if visible is None else visible.contiguous()
    # Many times the error of a float32 inner product of d terms that is ever seen.
    rounding = (x.shape[1] / 16 + 32) * 2.0**-24
    arrays = x.numpy(), entries(prepared.rows), seen.numpy(), target.numpy()
    limits = NOISE_FLOOR, MIN_NEW_DIRECTION, rounding
    return named_arrays.Problem(*arrays, *limits, pursuit.orthogonal, problem.nonnegative)


def entries(rows: Float[Tensor, "n d"]) -> Atoms:
    """Return the same memory as the compiled loops take it: bfloat16, which numpy does not know, as its bits."""
    return rows.view(torch.uint16).numpy() if rows.dtype == torch.bfloat16 else rows.numpy()


def pursue_and_append(
    pursuit: Pursuit,
    problem: Problem,
    prepared: PreparedAtoms,
    directions: Float[Tensor, "batch d"],
    target: Float[Tensor, " batch"],
    largest_cosine: float,
) -> tuple[Bool[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Encode each activation with the atoms and those appended before it, and append what is explained too badly.

    What leaves more than its ``target`` (float64) becomes an atom, its row of ``directions``, while there is room and
    unless an atom has a cosine of ``largest_cosine`` with it; ``prepared.n`` counts it. Returned are which were
    appended, and the squared norms of what is left. The pursuits wait for each other, so they run in one thread; the
    products that screen atoms are computed for a block at a time. For the compiled loops with a Gram only.
    """
    assert prepared.gram is not None
    batch, k, gram = len(problem.x), problem.k, named_arrays.Gram(prepared.gram.numpy(), UNIT)
    appended, energies = torch.zeros(batch, dtype=torch.bool), torch.zeros(batch, dtype=torch.float64)
    stored = directions.to(prepared.rows.dtype).contiguous()
    start, size = 0, SMALLEST_BLOCK
    while start < batch:
        block = slice(start, min(batch, start + min(size, rows_at_a_time(prepared, k, takes_gram=True))))
        rows, n = problem.x[block].contiguous(), prepared.n
        screened = screen(rows, prepared, ScoreRoom.empty(len(rows), n), prepared.coarse.used_with_gram)
        support, coefficients = np.full((len(rows), k), -1), np.empty((len(rows), k), np.float32)
        code = named_arrays.Code(support, coefficients, energies[block].numpy())
        examined = torch.zeros(len(rows), dtype=torch.int64)
        part = kernel_problem(pursuit, problem._replace(x=rows), prepared, target[block])
        loops = part, entries(stored[block]), screened, gram, code
        gram_rows.pursue_and_append(*loops, largest_cosine, appended[block].numpy(), examined.numpy())
        prepared.coarse.learn_examined(examined, n)
        new = directions[block][appended[block]]
        if len(new):
            prepared.place(n, new, correlate(new, prepared.rows[: n + len(new)]))
        start = block.stop
        size = int(np.clip(len(rows) * NEW_ATOMS_PER_BLOCK // max(len(new), 1), SMALLEST_BLOCK, LARGEST_BLOCK))
    return appended, energies.float()


def _with_gram(pursuit: Pursuit, problem: Problem, prepared: PreparedAtoms, room: ScoreRoom) -> SparseCode:
    assert prepared.gram is not None
    x, k, gram = problem.x, problem.k, named_arrays.Gram(prepared.gram.numpy(), UNIT)
    screened = screen(x, prepared, room, prepared.coarse.used_with_gram)
    energy = torch.zeros(len(x), dtype=torch.float64)
    support, coefficients = torch.full((len(x), k), -1), torch.zeros(len(x), k)
    examined = torch.zeros(len(x), dtype=torch.int64)
    code = named_arrays.Code(support.numpy(), coefficients.numpy(), energy.numpy())
    loops = kernel_problem(pursuit, problem, prepared), screened, gram, code, _path(problem)
    in_threads(gram_rows.pursue_rows, len(x), *loops, examined.numpy())
    prepared.coarse.learn_examined(examined, prepared.n)
    return SparseCode(support, coefficients, energy.float())


def _without_gram(
    pursuit: Pursuit, problem: Problem, prepared: PreparedAtoms, room: Float[Tensor, " entries"]
) -> SparseCode:
    x, k, batch = problem.x, problem.k, len(problem.x)
    support, coefficients = torch.full((batch, k), -1), torch.zeros(batch, k, dtype=torch.float64)
    energy, residual = torch.linalg.vector_norm(x, dim=1, dtype=torch.float64).square(), x.clone()
    loops, take, path = kernel_problem(pursuit, problem, prepared), pursuit.loops().take, _path(problem)
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
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for columns in pursuit.steps(k):
            rows = np.flatnonzero(progress.active)
            if len(rows) == 0:
                break
            progress = progress._replace(rows=rows)
            moving = residual[torch.from_numpy(rows)] if len(rows) < batch else residual
            width = columns.stop - columns.start
            choice = named_arrays.Choice(np.full((batch, width), -1), np.zeros((batch, width)))
            norms = energy[torch.from_numpy(rows)].sqrt()
            for part in products_in_parts(moving, prepared, room, pursuit.atoms_leave, norms):
                in_threads(products.select, len(rows), loops, part, progress, choice, pool=pool)
            in_threads(take, len(rows), columns.start, loops, progress, choice, path, pool=pool)
    if pursuit.atoms_leave:
        support, coefficients = unused_last(support, coefficients)
    return SparseCode(support, coefficients.float(), energy.float())


def _path(problem: Problem) -> named_arrays.Path:
    path = problem.path or Path.empty(problem.x[:0], problem.k)
    return named_arrays.Path(path.best.numpy(), path.history.numpy())


def in_threads(
    kernel: Callable[..., None], count: int, *arguments: Any, pool: ThreadPoolExecutor | None = None
) -> None:
    """Call the kernel on pieces of ``range(count)`` in as many threads as torch uses, those of ``pool`` if given."""
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        kernel(0, count, *arguments)
        return
    edges = np.linspace(0, count, min(count, threads * PIECES) + 1).astype(int).tolist()
    with ThreadPoolExecutor(threads) if pool is None else nullcontext(pool) as workers:
        list(workers.map(lambda piece: kernel(*piece, *arguments), pairwise(edges)))
