"""Pursuits on the CPU over atoms of which each may come from an activation before, by the compiled loops.

Each pursuit waits for those before it, whose activations may have become atoms. Few of them change its code: so the
threads encode a window of activations ahead, with the atoms that are there before all of them, and remember each step;
then one thread goes through the window and encodes only those again of which a new atom would have won a step.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from itda_lightning.pursuit import compiled
from itda_lightning.pursuit.algorithm import Pursuit
from itda_lightning.pursuit.correlation import correlate
from itda_lightning.pursuit.gram import UNIT
from itda_lightning.pursuit.kernels import gram_rows, named_arrays
from itda_lightning.pursuit.kernels.jit import Atoms, Flags, Index
from itda_lightning.pursuit.prepared import PreparedAtoms
from itda_lightning.pursuit.problem import Problem

# In a dictionary that grows, new atoms are scored from the residual until the block ends and the screen has them, so a
# block should append few.
LARGEST_BLOCK, SMALLEST_BLOCK, NEW_ATOMS_PER_BLOCK = 512, 16, 16
# A larger window keeps the threads busy for longer, but more of it is encoded twice. The part of a block.
LARGEST_WINDOW, SMALLEST_WINDOW, WINDOWS = 64, 16, 4
PIECES = 2  # of a window per thread
# Residuals before every step of a window.
WINDOW_BYTES = 16 * 2**20


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
    appended, and the squared norms of what is left: the same bits on any number of threads. The products that screen
    atoms are computed for a block at a time. For the compiled loops with a Gram only.
    """
    assert prepared.gram is not None
    batch, k, gram = len(problem.x), problem.k, named_arrays.Gram(prepared.gram.numpy(), UNIT)
    appended, energies = torch.zeros(batch, dtype=torch.bool), torch.zeros(batch, dtype=torch.float64)
    stored = directions.to(prepared.rows.dtype).contiguous()
    start, size = 0, SMALLEST_BLOCK
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        while start < batch:
            size = min(size, compiled.rows_at_a_time(prepared, k, takes_gram=True))
            block, n = slice(start, min(batch, start + size)), prepared.n
            rows = problem.x[block].contiguous()
            room = compiled.ScoreRoom.empty(len(rows), n)
            support, coefficients = np.full((len(rows), k), -1), np.empty((len(rows), k), np.float32)
            examined = torch.zeros(len(rows), dtype=torch.int64)
            of_block = Block(
                compiled.kernel_problem(pursuit, problem._replace(x=rows), prepared, target[block]),
                compiled.screen(rows, prepared, room, prepared.coarse.used_with_gram),
                named_arrays.Code(support, coefficients, energies[block].numpy()),
                compiled.entries(stored[block]),
                appended[block].numpy(),
                examined.numpy(),
            )
            _go_through(of_block, gram, largest_cosine, min(WINDOW_BYTES, prepared.budget // 8), pool)
            prepared.coarse.learn_examined(examined, n)
            new = directions[block][appended[block]]
            if len(new):
                prepared.place(n, new, correlate(new, prepared.rows[: n + len(new)]))
            start = block.stop
            size = int(np.clip(len(rows) * NEW_ATOMS_PER_BLOCK // max(len(new), 1), SMALLEST_BLOCK, LARGEST_BLOCK))
    return appended, energies.float()


class Block(NamedTuple):
    """Activations that are screened together, as the compiled loops take them, and what these fill in."""

    problem: named_arrays.Problem
    screen: named_arrays.Screen
    code: named_arrays.Code
    directions: Atoms
    appended: Flags
    examined: Index

    def part(self, rows: slice) -> "Block":
        """Return some of the activations; what is filled in shares its memory."""
        problem, screen, code = self.problem, self.screen, self.code
        return Block(
            problem._replace(x=problem.x[rows], visible=problem.visible[rows], target=problem.target[rows]),
            screen._replace(scores=screen.scores[rows], error=screen.error[rows]),
            named_arrays.Code(code.support[rows], code.coefficients[rows], code.energy[rows]),
            self.directions[rows],
            self.appended[rows],
            self.examined[rows],
        )


def _go_through(
    block: Block, gram: named_arrays.Gram, largest_cosine: float, window_bytes: int, pool: ThreadPoolExecutor
) -> None:
    """Encode the activations of a block, in windows if there is more than one thread, and append."""
    (batch, d), k, n = block.problem.x.shape, block.code.support.shape[1], block.screen.n_atoms
    size = 0  # none is encoded ahead
    if torch.get_num_threads() > 1:
        size = min(batch, LARGEST_WINDOW, max(SMALLEST_WINDOW, batch // WINDOWS), max(1, window_bytes // (4 * k * d)))
    steps = named_arrays.Path(*(np.empty(shape, np.float32) for shape in ((size, k), (0, k, k), (size, k, d))))
    in_threads = partial(compiled.in_threads, pool=pool, pieces=PIECES)
    has_gram_row, count, ready = np.zeros(batch, np.bool_), 0, 0
    for start in range(0, batch, size or batch):
        part = block.part(slice(start, start + (size or batch)))
        path = steps._replace(best=steps.best[: len(part.appended)], residual=steps.residual[: len(part.appended)])
        if size:
            path.best.fill(np.inf)
            if ready < count:
                in_threads(gram_rows.fill_gram_rows, n, part.problem.atoms, n + ready, n + count, gram)
                has_gram_row[ready:count], ready = True, count
            spare = part.screen._replace(scores=part.screen.scores.copy())
            ahead = part.problem, spare, gram, part.code, path, part.examined, count, has_gram_row
            in_threads(gram_rows.pursue_rows, len(part.appended), *ahead)
        loops = part.screen, gram, part.code, path, part.examined, count, has_gram_row
        count = gram_rows.pursue_and_append(part.problem, part.directions, *loops, largest_cosine, part.appended)
