"""The Gram matrix of a growing dictionary, kept up to date so that its bits depend on the atoms alone."""

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

# Entries are computed in whole tiles of this edge. A matrix product may round an entry differently when its operands
# have another shape; with fixed tiles a Gram that grew atom by atom equals, bit for bit, one built from all atoms at
# once, which is what makes a resumed fit identical to an uninterrupted one.
TILE = 128
# One step of an entry stored as a 16-bit integer. Atoms are unit rows to 1%, so no entry is larger than 1.03.
UNIT = 1.03 / 32767


def padded(n: int) -> int:
    """Return the smallest multiple of the tile edge that is at least n."""
    return -(-n // TILE) * TILE


def empty_gram(capacity: int, dtype: torch.dtype, device: torch.device) -> Shaped[Tensor, "capacity padded"]:
    """Return a Gram of zeros, whose rows have a round length, so that a corner of it can be used as it lies in memory.

    On the CPU it has numpy's memory, which comes in huge pages on Linux: rows are read in any order, and with pages of
    4 kB a pursuit waits for their addresses as long as it computes.
    """
    shape = capacity, padded(capacity)
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.empty(shape, torch.empty(0, dtype=dtype).numpy().dtype)).zero_()


def as_entries(products: Float[Tensor, "a b"], dtype: torch.dtype) -> Shaped[Tensor, "a b"]:
    """Convert inner products to a Gram of that dtype; ``torch.int16`` counts in steps of ``UNIT``."""
    return products.div(UNIT).round_().to(dtype) if dtype == torch.int16 else products.to(dtype)


def update_gram(gram: Shaped[Tensor, "m m"], atoms: Float[Tensor, "m d"], start: int, stop: int) -> None:
    """Bring the rows and columns ``start..stop`` of the Gram up to date, in place.

    ``atoms`` holds ``stop`` atoms followed by zeros, and the part of the Gram that belongs to the first ``start`` atoms
    is right already. Products are computed in the atoms' dtype, but in at least single precision. If ``m`` is no
    multiple of ``TILE``, the bits of the last, narrower tile depend on ``m`` too.
    """
    dtype = torch.promote_types(atoms.dtype, gram.dtype if gram.is_floating_point() else torch.float32)
    for row in range(start // TILE * TILE, stop, TILE):
        left = atoms[row : row + TILE].to(dtype)
        for column in range(0, row + TILE, TILE):
            products = left @ atoms[column : column + TILE].to(dtype).T
            block = as_entries(products, gram.dtype)
            gram[row : row + TILE, column : column + TILE] = block
            gram[column : column + TILE, row : row + TILE] = block.T
