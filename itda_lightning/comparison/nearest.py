"""The nearest of many directions by cosine, with bounded memory."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

BLOCK = 4096


class Nearest(NamedTuple):
    """The nearest of n directions for each of m rows.

    Attributes:
        direction: (m,) int64 index of the direction, on the CPU.
        cosine: (m,) float32 cosine with its sign, on the CPU.
    """

    direction: Int[Tensor, " m"]
    cosine: Float[Tensor, " m"]


def nearest_directions(
    rows: Float[Tensor, "m d"], directions: Float[Tensor, "n d"], signed: bool, block: int = BLOCK
) -> Nearest:
    """Find the direction with the largest cosine, of equal ones the first, in blocks of ``block * block`` cosines.

    Args:
        rows: (m, d) vectors of any length.
        directions: (n, d) vectors of any length, n >= 1; the cosine with a direction of length zero is 0.
        signed: take the largest ``|cosine|``, for directions that are used with coefficients of both signs.
        block: number of rows and of directions in one product.
    """
    directions = functional.normalize(directions.detach().float(), dim=1)
    parts = [_nearest(part, directions, signed, block) for part in rows.detach().to(directions).split(block)]
    return Nearest(torch.cat([part.direction for part in parts]), torch.cat([part.cosine for part in parts]))


def _nearest(rows: Float[Tensor, "m d"], directions: Float[Tensor, "n d"], signed: bool, block: int) -> Nearest:
    rows = functional.normalize(rows, dim=1)
    index = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    best, cosine = rows.new_full((len(rows),), -torch.inf), rows.new_zeros(len(rows))
    for start in range(0, len(directions), block):
        cosines = (rows @ directions[start : start + block].T).clamp(-1, 1)
        score, at = (cosines.abs() if signed else cosines).max(dim=1)
        better = score > best  # strictly, so that the first of equal ones stays
        best = torch.where(better, score, best)
        index = torch.where(better, at + start, index)
        cosine = torch.where(better, cosines.gather(1, at[:, None])[:, 0], cosine)
    return Nearest(index.cpu(), cosine.cpu())
