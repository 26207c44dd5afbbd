"""A measure of all pairs of sites, with what it gives when documents are resampled."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Measured(NamedTuple):
    """One measure of all pairs of sites, and the same of every resample.

    Attributes:
        values: (sites, sites) float64.
        resampled: (resamples, sites, sites) float64.
        seconds: the measuring.
    """

    values: Float[Tensor, "sites sites"]
    resampled: Float[Tensor, "resamples sites sites"]
    seconds: float

    @classmethod
    def ones(cls, sites: int, resamples: int) -> "Measured":
        """All 1, which is what a site has with itself; to be filled in."""
        values = torch.ones(sites, sites, dtype=torch.float64)
        return cls(values, values.repeat(resamples, 1, 1), 0.0)

    def put(self, i: int, j: int, values: Float[Tensor, ""], resampled: Float[Tensor, " resamples"]) -> None:
        """Fill in a symmetric measure of one pair."""
        for a, b in ((i, j), (j, i)):
            self.values[a, b] = values
            self.resampled[:, a, b] = resampled
