"""Second-order cosine similarity (Hamilton, Leskovec, Jurafsky 2016, EMNLP, arXiv 1606.02821)."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.errors import InputError
from itda_lightning.measures.aligned import check_aligned, check_directions, directions
from itda_lightning.measures.neighbours import Neighbours
from itda_lightning.measures.permuted import DRAWS


def second_order_cosine(x: Float[Tensor, "n d1"], y: Float[Tensor, "m d2"], k: int = 10) -> float:
    """Return the mean cosine of each token's cosines with its k nearest tokens of either side, in [-1, 1]; in float64.

    For each token, the union of its k nearest neighbours by cosine in x and in y; the vector of its cosines with them
    in x, and that in y; the cosine of these two vectors (Section 3.2 of Klabunde et al. 2023, arXiv 2305.06329). ReSi's
    code has 1 - cosine in their place. Symmetric; invariant to rotation and isotropic scale of either side (not to
    translation: cosines are about the origin). Takes 16 n^2 bytes, so it is for a sample of tokens.

    Args:
        x, y: (n, d1) and (n, d2) representations of the same n tokens, any float dtype.
        k: neighbours per token, from 1 to n - 1.

    Raises:
        InputError: as ``check_aligned``; an all-zero row; k out of range.

    Example:
        >>> import torch
        >>> from itda_lightning.measures import second_order_cosine
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> round(second_order_cosine(x, 3 * x.flip(1), k=1), 6)  # rotated and scaled
        1.0
    """
    check_aligned((x, y), min_rows=2)
    check_directions(x, y)
    if not 1 <= k < len(x):
        raise InputError(f"k must be from 1 to {len(x) - 1} with {len(x)} tokens, got {k}")
    return float(second_order_cosines(Neighbourhood.of(x, k), Neighbourhood.of(y, k)).mean())


class Neighbourhood(NamedTuple):
    """Cosines of all pairs of n tokens, float64, and the k nearest tokens of each, nearest first."""

    cosines: Float[Tensor, "n n"]
    nearest: Int[Tensor, "n k"]

    @classmethod
    def of(cls, x: Float[Tensor, "n d"], k: int) -> "Neighbourhood":
        """Return those of the rows, all of which must have a direction."""
        unit = directions(x)
        neighbours = Neighbours(x, k, torch.arange(len(x)))
        neighbours.update(x)
        return cls(unit @ unit.T, neighbours.tokens)

    def permuted(self, order: Int[Tensor, " n"]) -> "Neighbourhood":
        """Return those of the rows in another order."""
        return Neighbourhood(self.cosines[order][:, order], order.argsort()[self.nearest[order]])


def second_order_cosines(x: Neighbourhood, y: Neighbourhood) -> Float[Tensor, " n"]:
    """Return the (n,) cosines whose mean is ``second_order_cosine``; 0 where all cosines of a side are 0."""
    tokens = torch.cat([x.nearest, y.nearest], dim=1)
    first = torch.ones_like(tokens, dtype=torch.bool)  # a neighbour in both counts once
    first[:, x.nearest.shape[1] :] = (y.nearest[:, :, None] != x.nearest[:, None, :]).all(2)
    a, b = (side.cosines.gather(1, tokens) * first for side in (x, y))
    return torch.nn.functional.cosine_similarity(a, b, dim=1, eps=1e-30)


def second_order_null(x: Neighbourhood, y: Neighbourhood) -> float:
    """Return the mean of ``second_order_cosine`` over random permutations of the rows of y."""
    n = len(y.nearest)
    orders = (torch.randperm(n, generator=torch.Generator().manual_seed(draw)) for draw in range(DRAWS))
    return sum(float(second_order_cosines(x, y.permuted(order)).mean()) for order in orders) / DRAWS
