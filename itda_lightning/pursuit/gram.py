"""The Gram matrix of a growing dictionary, kept up to date so that its bits depend on the atoms alone."""

from jaxtyping import Float
from torch import Tensor

# Entries are computed in whole tiles of this edge. A matrix product may round an entry differently when its operands
# have another shape; with fixed tiles a Gram that grew atom by atom equals, bit for bit, one built from all atoms at
# once, which is what makes a resumed fit identical to an uninterrupted one.
TILE = 128


def padded(n: int) -> int:
    """The smallest multiple of the tile edge that is at least n."""
    return -(-n // TILE) * TILE


def update_gram(gram: Float[Tensor, "m m"], atoms: Float[Tensor, "m d"], start: int, stop: int) -> None:
    """Bring the rows and columns ``start..stop`` of the Gram up to date, in place.

    ``atoms`` holds ``stop`` atoms followed by zeros, and the part of the Gram that belongs to the first ``start`` atoms
    is right already. Products are computed in the Gram's dtype. Where ``m`` is no multiple of ``TILE``, the bits of the
    last, narrower tile depend on ``m`` too.
    """
    for row in range(start // TILE * TILE, stop, TILE):
        for column in range(0, row + TILE, TILE):
            block = atoms[row : row + TILE].to(gram.dtype) @ atoms[column : column + TILE].to(gram.dtype).T
            gram[row : row + TILE, column : column + TILE] = block
            gram[column : column + TILE, row : row + TILE] = block.T
