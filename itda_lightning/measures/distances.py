"""Euclidean distances of all pairs of tokens, and sums over pairs of tokens that come several times."""

from jaxtyping import Float
from torch import Tensor

from itda_lightning.errors import InputError
from itda_lightning.measures.aligned import check_aligned


def distances(x: Float[Tensor, "n d"], name: str = "x") -> Float[Tensor, "n n"]:
    """Return the distances of all pairs of rows, float64, from one product of the centred rows.

    Their squares are exact to about 1e-16 times the squared norms of the centred rows. Takes 8 n^2 bytes, so it is for
    a sample of tokens. Raises InputError if all rows are equal.
    """
    x = x.double()
    x = x - x.mean(0)
    norms = x.square().sum(1)
    squares = (norms[:, None] + norms - 2 * x @ x.T).fill_diagonal_(0).clamp_(min=0)
    # What rounding leaves of the distance of equal rows.
    squares[squares <= 1e-14 * norms.max()] = 0
    if not bool(squares.any()):
        raise InputError(f"{name} is the same for every token: it has no distances to compare")
    return squares.sqrt_()


def distances_of_both(
    x: Float[Tensor, "n d1"], y: Float[Tensor, "m d2"], min_rows: int
) -> tuple[Float[Tensor, "n n"], Float[Tensor, "n n"]]:
    """Return the distances in x and in y. Raises InputError as ``check_aligned`` and ``distances``."""
    check_aligned((x, y), min_rows=min_rows)
    return distances(x), distances(y, "y")


def pair_sums(matrix: Float[Tensor, "n n"], times: Float[Tensor, "draws n"]) -> Float[Tensor, " draws"]:
    """Return ``sum_ij t_i t_j m_ij`` for each draw, in which token i comes ``t_i`` times."""
    return ((matrix @ times.T) * times.T).sum(0)
