"""Checks of representations of the same tokens, and their conversion to float64 without a copy of all of them."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.errors import InputError

# Rows converted to float64 at a time.
BLOCK_ROWS = 4096
# Sums of fourth powers of larger values would overflow float64; float32 and bfloat16 lie below.
LARGEST = 1e70


def check_aligned(
    representations: Sequence[Float[Tensor, "..."]], widths: Sequence[int] | None = None, min_rows: int = 0
) -> None:
    """Check that row i of every (n, d) representation can be the same token, with d as in earlier batches (``widths``).

    Raises InputError for other shapes, fewer than ``min_rows`` rows, and values that are not finite or too large.
    Messages call two representations x and y.
    """
    rows, count = len(representations[0]), len(representations)
    names = "xy" if count == 2 else [f"representation {index}" for index in range(count)]
    for index, (name, x) in enumerate(zip(names, representations, strict=True)):
        if x.ndim != 2 or not x.shape[1]:
            raise InputError(f"{name} must have shape (tokens, dimensions), got {tuple(x.shape)}")
        if widths is not None and x.shape[1] != widths[index]:
            raise InputError(f"{name} has {x.shape[1]} dimensions, earlier batches had {widths[index]}")
        if len(x) != rows:
            raise InputError(f"{names[0]} has {rows} rows and {name} has {len(x)}: row i of all must be the same token")
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


def check_directions(x: Float[Tensor, "n d1"], y: Float[Tensor, "n d2"], where: str = "") -> None:
    """Raise InputError if a row is all zero."""
    for name, rows in (("x", x), ("y", y)):
        # The largest absolute value per row: a comparison of all values with 0 would make a mask as large as x.
        if not bool((torch.linalg.vector_norm(rows, float("inf"), dim=1) > 0).all()):
            raise InputError(f"{name}{where} has an all-zero row, which has no direction: leave that token out")


def check_indices(name: str, index: Int[Tensor, " m"], n: int) -> None:
    """Raise InputError unless these are indices of some of n tokens."""
    if not len(index) or int(index.min()) < 0 or int(index.max()) >= n:
        raise InputError(f"{name} must be indices of the {n} tokens, got {index.tolist()[:5]}...")


def blocks(*representations: Float[Tensor, "n _"]) -> Iterator[tuple[Float[Tensor, "block _"], ...]]:
    """Yield blocks of the same rows of each representation, in order, float64."""
    for start in range(0, len(representations[0]), BLOCK_ROWS):
        yield tuple(x[start : start + BLOCK_ROWS].double() for x in representations)


def directions(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Return the rows scaled to norm one, float64; also rows whose squared norm would underflow."""
    x = x.double()
    x = x / x.abs().amax(1, keepdim=True)
    return x / torch.linalg.vector_norm(x, dim=1, keepdim=True)
