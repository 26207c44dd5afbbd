"""Growth in windows, which asks what of a window's failures should become atoms: the oddest or the most typical."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.pursuit import PursuitName

WINDOWS = 16
FAILURES = 4  # candidates for each atom that is taken: the worst explained ones of a window
NEIGHBOURS = 10
# Residuals that are more alike than this are one kind, of which one becomes an atom.
ALIKE = 0.5
Choice = Literal["oddest", "typical"]


def grow_in_windows(
    x: Float[Tensor, "m d"],
    n: int,
    k: int,
    pursuit: PursuitName,
    nonnegative: bool,
    choice: Choice,
    least_gain: float = 0.0,
) -> Int[Tensor, " n"]:
    """Choose n / 16 activations per window from its worst explained ones, and return which.

    Args:
        x: centred activations.
        n: atoms wanted.
        k, pursuit, nonnegative: of the codes.
        choice: the oddest are those of the largest unexplained share; the most typical those whose residuals lie
            densest among the residuals of the failures (cosine with the nearest ten), one of a kind.
        least_gain: of the codes whose residuals are judged.
    """
    taken = torch.zeros(0, dtype=torch.int64)
    windows = torch.arange(len(x)).split(-(-len(x) // WINDOWS))
    for number, places in enumerate(windows):
        window, atoms = x[places], normalize(x[taken], dim=1)
        count = n * (number + 1) // len(windows) - len(atoms)
        residual = window
        if len(atoms):
            known = Dictionary(
                atoms, torch.zeros_like(x[0]), k=k, pursuit=pursuit, nonnegative=nonnegative, least_gain=least_gain
            )
            residual = window - known.decode(known.encode(window))
        share = residual.square().sum(1) / window.square().sum(1)
        failures = share.argsort(descending=True, stable=True)[: FAILURES * count]
        chosen = failures[:count] if choice == "oddest" else failures[densest(residual[failures], count)]
        taken = torch.cat([taken, places[chosen]])
    return taken


def densest(residuals: Float[Tensor, "m d"], count: int) -> Int[Tensor, " count"]:
    """Return the rows of highest density, leaving out those like one that was taken while there are others."""
    cosines = normalize(residuals, dim=1) @ normalize(residuals, dim=1).T
    density = cosines.fill_diagonal_(-1).topk(min(NEIGHBOURS, len(residuals)), dim=1).values.mean(1)
    taken: list[int] = []
    for _ in range(count):
        best = int(density.argmax())
        taken.append(best)
        density[cosines[best] > ALIKE] -= 2  # behind all of other kinds
        density[best] = -torch.inf
    return torch.tensor(taken, dtype=torch.int64)
