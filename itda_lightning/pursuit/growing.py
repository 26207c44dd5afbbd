"""Pursuits one after another in a dictionary that grows by the badly explained: one encode per activation."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from itda_lightning.pursuit.compiled import ScoreRoom, entries, kernel_gram, kernel_problem, rows_at_a_time, screen
from itda_lightning.pursuit.correlation import correlate
from itda_lightning.pursuit.kernels import gram_rows, named_arrays
from itda_lightning.pursuit.prepared import PreparedAtoms

# New atoms are scored from the residual until the block ends and the screen has them, so a block should append few.
LARGEST_BLOCK, SMALLEST_BLOCK, NEW_ATOMS_PER_BLOCK = 512, 16, 16


def pursue_and_append(
    orthogonal: bool,
    x: Float[Tensor, "batch d"],
    directions: Float[Tensor, "batch d"],
    prepared: PreparedAtoms,
    k: int,
    nonnegative: bool,
    target: Float[Tensor, " batch"],
    largest_cosine: float,
) -> tuple[Bool[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Encode each activation with the atoms and those appended before it, and append what is explained too badly.

    The pursuits wait for each other, so they run in one thread; the products that screen atoms are computed for a block
    at a time. For the compiled loops with a Gram only; inputs are valid.

    Args:
        orthogonal: orthogonal matching pursuit instead of matching pursuit.
        x: (batch, d) float32.
        directions: (batch, d) the unit rows to append; written behind the atoms, and counted by ``prepared.n``.
        target: (batch,) float64 squared norms; what leaves more is appended while there is room,
        largest_cosine: unless an atom has at least this cosine with it.

    Returns:
        (batch,) which were appended, and (batch,) the squared norms of what is left.
    """
    appended, energies = torch.zeros(len(x), dtype=torch.bool), torch.zeros(len(x), dtype=torch.float64)
    stored = directions.to(prepared.rows.dtype).contiguous()
    start, size = 0, SMALLEST_BLOCK
    while start < len(x):
        block = slice(start, min(len(x), start + min(size, rows_at_a_time(prepared, k, takes_gram=True))))
        rows, n = x[block].contiguous(), prepared.n
        problem = kernel_problem(rows, prepared, None, target[block], orthogonal, nonnegative)
        screened = screen(rows, prepared, range(n), ScoreRoom.empty(len(rows), n), prepared.coarse.used_with_gram)
        code = named_arrays.Code(
            np.full((len(rows), k), -1), np.empty((len(rows), k), np.float32), energies[block].numpy()
        )
        examined = torch.zeros(len(rows), dtype=torch.int64)
        gram_rows.pursue_and_append(
            problem,
            entries(stored[block]),
            screened,
            kernel_gram(prepared),
            code,
            largest_cosine,
            appended[block].numpy(),
            examined.numpy(),
        )
        prepared.coarse.learn_examined(examined, n)
        new = directions[block][appended[block]]
        if len(new):
            prepared.place(n, new, correlate(new, prepared.rows[: n + len(new)]))
        start = block.stop
        size = int(np.clip(len(rows) * NEW_ATOMS_PER_BLOCK // max(len(new), 1), SMALLEST_BLOCK, LARGEST_BLOCK))
    return appended, energies.float()
