"""Checks of representations of the same tokens, and their conversion to float64 without a copy of all of them."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.errors import InputError

# Rows converted to float64 at a time.
BLOCK_ROWS = 4096
# Sums of fourth powers of larger values would overflow float64; float32 and bfloat16 lie below.
LARGEST = 1e70


def check_aligned(
    representations: Sequence[Float[Tensor, "..."]], widths: Sequence[int] | None = None, min_rows: int = 0
) -> None:
    """Check that row i of every representation can be the same token. Messages call two of them x and y.

    Args:
        representations: (n, d) each, with its own d.
        widths: the required d of each, known from earlier batches.
        min_rows: fewest rows from which anything can be estimated.

    Raises:
        InputError: a representation without two dimensions, of another width than before or with other rows; too few
            rows; values that are not finite or too large.
    """
    rows = len(representations[0])
    for index, x in enumerate(representations):
        name = name_of(index, len(representations))
        if x.ndim != 2 or not x.shape[1]:
            raise InputError(f"{name} must have shape (tokens, dimensions), got {tuple(x.shape)}")
        if widths is not None and x.shape[1] != widths[index]:
            raise InputError(f"{name} has {x.shape[1]} dimensions, earlier batches had {widths[index]}")
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
                f"{name} has a value of size {max(-smallest, largest):.3g}, whose powers overflow: "
                f"scale it below {LARGEST:g}"
            )
    if rows < min_rows:
        raise InputError(f"{rows} tokens are too few: give at least {min_rows}")


def name_of(index: int, count: int) -> str:
    """Return the name of a representation in messages."""
    return "xy"[index] if count == 2 else f"representation {index}"


def blocks(
    *representations: Float[Tensor, "n _"], rows: int = BLOCK_ROWS
) -> Iterator[tuple[Float[Tensor, "block _"], ...]]:
    """Yield blocks of the same rows of each representation, in order, float64."""
    for start in range(0, len(representations[0]), rows):
        yield tuple(x[start : start + rows].double() for x in representations)


def check_directions(x: Float[Tensor, "n d"], name: str) -> None:
    """Raise InputError if a row is all zero."""
    # The largest absolute value per row: a comparison of all values with 0 would make a mask as large as x.
    if not bool((torch.linalg.vector_norm(x, float("inf"), dim=1) > 0).all()):
        raise InputError(f"{name} has an all-zero row, which has no direction: leave that token out")


def directions(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Return the rows scaled to norm one, float64; also rows whose squared norm would underflow."""
    x = x.double()
    x = x / x.abs().amax(1, keepdim=True)
    return x / torch.linalg.vector_norm(x, dim=1, keepdim=True)
