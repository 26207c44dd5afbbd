"""Checks on two representations of the same tokens, row by row."""

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.errors import InputError


def aligned(
    x: Float[Tensor, "n d1"], y: Float[Tensor, "m d2"], min_rows: int = 2
) -> tuple[Float[Tensor, "n d1"], Float[Tensor, "n d2"]]:
    """Both in float64.

    Raises:
        InputError: other than two dimensions, different numbers of rows, fewer rows than ``min_rows``, or values that
            are not finite.
    """
    for name, value in (("x", x), ("y", y)):
        if value.ndim != 2:
            raise InputError(f"{name} must have shape (tokens, dimensions), got {tuple(value.shape)}")
        if not bool(torch.isfinite(value).all()):
            raise InputError(f"{name} has values that are not finite: leave those tokens out of both representations")
    if len(x) != len(y):
        raise InputError(f"x has {len(x)} rows and y has {len(y)}: row i of both must be the same token")
    if len(x) < min_rows:
        raise InputError(f"{len(x)} tokens are too few: give at least {min_rows}")
    return x.double(), y.double()


def centred(name: str, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Columns of mean zero. Raises InputError where nothing is left: all rows are the same."""
    result = x - x.mean(0)
    if float(result.abs().max()) <= 1e-12 * max(float(x.abs().max()), 1e-300):
        raise InputError(f"{name} is the same for every token: it has no variance to compare")
    return result
