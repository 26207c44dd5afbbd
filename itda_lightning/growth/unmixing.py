"""Unmixing: take out of each atom what atoms that are used more often stand for.

Codes alone do not tell a pair of features that fire together from a feature: one atom comes to stand for a parent with
its child, which never fires without it. Such an atom is close to the parent's, which is used more often, and what is
left without the parent is the child. The atoms settle again in the steps of refinement that follow.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

TIMES = 3  # subtractions from one atom
PARTS = 32  # refinement unmixes between these parts of its steps
LEAST_LEFT = 0.01  # below this length of what is left it is rounding, even of half precision
BLOCK = 256  # atoms whose products with all before them are held at a time


class Unmixed(NamedTuple):
    """Unmixed atoms.

    Attributes:
        atoms: (n, d) unit rows; those that did not change have the same bits.
        changed: (n,) True for the others.
    """

    atoms: Float[Tensor, "n d"]
    changed: Bool[Tensor, " n"]


def unmixing_steps(steps: int) -> frozenset[int]:
    """Return after how many of a refinement's steps atoms are unmixed.

    That is between every two of 32 parts, but not after the first, in which atoms move farthest, nor at the end.
    Measured in ``benchmarks/synthetic``: 32 and 64 parts give the same atoms, 8 a little more of mixtures.

    Example:
        >>> from itda_lightning.growth import unmixing_steps
        >>> sorted(unmixing_steps(320))[:3], max(unmixing_steps(320))
        ([20, 30, 40], 310)
    """
    return frozenset(round(steps * part / PARTS) for part in range(2, PARTS)) - {0, steps}


def unmix(atoms: Float[Tensor, "n d"], uses: Int[Tensor, " n"], limit: float) -> Unmixed:
    """Go through the atoms, most used first, and subtract projections on those before, as they are by then.

    While the largest cosine of an atom with one before it exceeds ``limit``, its projection on that one is subtracted,
    at most ``TIMES`` times, and the rest is scaled to length 1. So an atom that was changed fewer times has no larger
    cosine with any atom before it, unless it is the same as that one up to rounding (less than ``LEAST_LEFT`` would be
    left): then it stays. Negative cosines are left alone. Computed in float64 with (BLOCK, n) products at a time.

    Args:
        atoms: (n, d) unit rows.
        uses: (n,) number of codes that use each atom; of equal ones the first atom comes first.
        limit: in (0, 1).
    """
    order = uses.argsort(descending=True, stable=True)
    rows, changed = normalize(atoms[order].double(), dim=1), torch.zeros_like(order, dtype=torch.bool)
    for start in range(0, len(rows), BLOCK):
        stop = min(start + BLOCK, len(rows))
        products = rows[start:stop] @ rows[:stop].T
        for i in range(max(start, 1), stop):
            own = products[i - start]
            for _ in range(TIMES):
                cosine, nearest = (value.item() for value in own[:i].max(0))
                left = max(0.0, 1 - cosine**2) ** 0.5
                if cosine <= limit or left < LEAST_LEFT:
                    break
                j = int(nearest)
                others = products[j - start] if j >= start else rows[:stop] @ rows[j]
                rows[i] = (rows[i] - cosine * rows[j]) / left
                own.sub_(cosine * others).div_(left)[i] = 1
                products[:, i] = own[start:stop].clone()
                changed[order[i]] = True
    unmixed = torch.empty_like(rows).index_copy_(0, order, rows).to(atoms.dtype)
    return Unmixed(torch.where(changed[:, None], unmixed, atoms), changed)
