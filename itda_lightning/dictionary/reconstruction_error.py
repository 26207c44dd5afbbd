"""FVU and L0 of reconstructions: sums over activations, divided once at the end."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from itda_lightning.machine.processes import gather_rows, n_ranks

SCALAR_SUMS = 4  # stand before the sum of activations in a batch's vector


class Reconstruction(NamedTuple):
    """The quality of reconstructed activations.

    Attributes:
        tokens: number of activations.
        squared_error: sum of |x - x_hat|^2.
        variance: sum of |x - mean|^2, with the mean over these activations.
        l0: mean number of distinct atoms in a code; 0 without activations.
    """

    tokens: int
    squared_error: float
    variance: float
    l0: float

    @property
    def fvu(self) -> float:
        """The fraction of variance unexplained; nan if all activations are equal."""
        return self.squared_error / self.variance if self.variance > 0 else math.nan


class ReconstructionSums:
    """Accumulate what FVU and L0 of activations of ``width`` dimensions need, in float64.

    Sums of batches are added in the order of the batches, so that several processes that take the batches in turn give
    the same bits as one.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self._batches: list[Float[Tensor, " sums"]] = []

    def update(
        self,
        x: Float[Tensor, "batch d"],
        squared_errors: Float[Tensor, " batch"],
        l0: Shaped[Tensor, " batch"] | None = None,
    ) -> None:
        """Add a batch.

        Args:
            x: activations less any fixed vector near their mean: a large mean costs FVU digits.
            squared_errors: |x - x_hat|^2.
            l0: number of distinct atoms in each code; None if L0 is not needed.
        """
        x = x.double()
        sums = (len(x), x.square().sum(), squared_errors.double().sum(), 0 if l0 is None else l0.sum())
        scalars = torch.tensor([float(value) for value in sums], dtype=torch.float64)
        self._batches.append(torch.cat([scalars, x.sum(0).cpu()]))

    def across_processes(self) -> "ReconstructionSums":
        """Return the sums of all processes, which took the batches in turn, in the order of one process."""
        counts = gather_rows(torch.tensor([len(self._batches)]), [1] * n_ranks()).tolist()
        own = torch.stack([torch.zeros(SCALAR_SUMS + self.width, dtype=torch.float64), *self._batches])[1:]
        parts = gather_rows(own, counts).split(counts)
        together = ReconstructionSums(self.width)
        together._batches = [part[turn] for turn in range(max(counts)) for part in parts if turn < len(part)]
        return together

    def compute(self) -> Reconstruction:
        """Return the figures of all batches so far."""
        total = sum(self._batches, torch.zeros(SCALAR_SUMS + self.width, dtype=torch.float64))
        tokens, squares, squared_error, l0 = total[:SCALAR_SUMS]
        spread = variance(squares, total[SCALAR_SUMS:], tokens)
        return Reconstruction(int(tokens), float(squared_error), float(spread), float(l0 / tokens.clamp(min=1)))


def variance(
    squares: Float[Tensor, "*groups"], total: Float[Tensor, "*groups d"], tokens: Float[Tensor, "*groups"]
) -> Float[Tensor, "*groups"]:
    """Compute the sum of |x - mean|^2 from the sum of |x|^2, the sum of x and the number of activations."""
    return squares - total.square().sum(-1) / tokens.clamp(min=1)
