"""What every measure asks of representations of the same tokens, and how they become float64 without a copy of all."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.errors import InputError

# Rows that are in float64 at a time.
BLOCK_ROWS = 4096
# Fourth powers of larger values, summed, would leave float64; all of float32 and bfloat16 lies below.
LARGEST = 1e70


def check_aligned(
    representations: Sequence[Float[Tensor, "..."]], widths: Sequence[int] | None = None, min_rows: int = 0
) -> None:
    """Whether row i of all can be the same token. Called x and y where there are two.

    Args:
        representations: (n, d) each, with a d of its own.
        widths: the d that each must have, known from earlier batches.
        min_rows: the fewest rows with which anything can be estimated.

    Raises:
        InputError: other than two dimensions, another width than before, different numbers of rows, too few rows, or
            values that are not finite or too large.
    """
    rows = len(representations[0])
    for index, x in enumerate(representations):
        name = name_of(index, len(representations))
        if x.ndim != 2 or not x.shape[1]:
            raise InputError(f"{name} must have shape (tokens, dimensions), got {tuple(x.shape)}")
        if widths is not None and x.shape[1] != widths[index]:
            raise InputError(f"{name} has {x.shape[1]} dimensions where batches before had {widths[index]}")
        if len(x) != rows:
            raise InputError(
                f"{name_of(0, len(representations))} has {rows} rows and {name} has {len(x)}: "
                "row i of all must be the same token"
            )
        if not rows:
            continue
        smallest, largest = (float(end) for end in torch.aminmax(x))
        if not (-float("inf") < smallest and largest < float("inf")):
            raise InputError(f"{name} has values that are not finite: leave those tokens out of every representation")
        if max(-smallest, largest) > LARGEST:
            raise InputError(
                f"{name} has a value of size {max(-smallest, largest):.3g}, whose powers overflow: scale it below {LARGEST:g}"
            )
    if rows < min_rows:
        raise InputError(f"{rows} tokens are too few: give at least {min_rows}")


def name_of(index: int, count: int) -> str:
    """What messages call a representation."""
    return "xy"[index] if count == 2 else f"representation {index}"


def blocks(
    *representations: Float[Tensor, "n _"], rows: int = BLOCK_ROWS
) -> Iterator[tuple[Float[Tensor, "block _"], ...]]:
    """The same rows of each, in float64, in order."""
    for start in range(0, len(representations[0]), rows):
        yield tuple(x[start : start + rows].double() for x in representations)


def check_directions(x: Float[Tensor, "n d"], name: str) -> None:
    """Raises InputError where a row is all zero."""
    # The largest size of each row: comparing all values with 0 would make a mask as large as x.
    if not bool((torch.linalg.vector_norm(x, float("inf"), dim=1) > 0).all()):
        raise InputError(f"{name} has an all-zero row, which has no direction: leave that token out")


def directions(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rows of norm one, in float64; of any norm, also one whose square would underflow."""
    x = x.double()
    x = x / x.abs().amax(1, keepdim=True)
    return x / torch.linalg.vector_norm(x, dim=1, keepdim=True)
