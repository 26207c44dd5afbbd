"""Histograms of every atom's coefficients, counted in one pass without knowing their scale beforehand."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Shifting an int64 further than this is undefined, and every bin has met the middle long before.
MAX_SHIFT = 62


class Widening(NamedTuple):
    """Which atoms' intervals became wider, and by how many doublings; both (m,) int64."""

    atom: Int[Tensor, " m"]
    doublings: Int[Tensor, " m"]


class CoefficientHistograms:
    """Linear histograms of signed coefficients, each over ``(-limit, limit)`` with a limit of its own.

    An atom's limit is the smallest power of two above the magnitudes seen. When a larger one arrives the limit doubles
    and bins merge in pairs; as the bins of a limit nest in those of its double, counts stay exact and the result does
    not depend on the order in which coefficients arrive.

    Attributes:
        counts: (n, 2 * half) int64 on the CPU.
        limits: (n,) float64, 0 for an atom without coefficients.
    """

    def __init__(self, n_atoms: int, half: int) -> None:
        self.half = half
        self.counts = torch.zeros(n_atoms, 2 * half, dtype=torch.int64)
        self.limits = torch.zeros(n_atoms, dtype=torch.float64)

    def add(
        self, atom: Int[Tensor, " entries"], coefficient: Float[Tensor, " entries"]
    ) -> tuple[Int[Tensor, " entries"], Widening]:
        """Count coefficients (float64).

        Returns:
            The bin of each, (entries,) int64, and the atoms that had to be widened for them.
        """
        widening = self._widen(atom, coefficient)
        limit = self.limits[atom]
        # Dividing by a power of two is exact, so a coefficient falls on the same side of an edge at every limit.
        position = torch.where(limit > 0, coefficient / limit, 0.0) * self.half
        bins = (position.floor().long() + self.half).clamp(0, 2 * self.half - 1)
        self.counts.view(-1).scatter_add_(0, atom * 2 * self.half + bins, torch.ones_like(bins))
        return bins, widening

    def _widen(self, atom: Int[Tensor, " entries"], coefficient: Float[Tensor, " entries"]) -> Widening:
        # |c| = mantissa * 2^e with a mantissa in [0.5, 1), so the quotient is 2^e: the power of two above |c|.
        needed = torch.where(coefficient == 0, 0.0, coefficient / torch.frexp(coefficient).mantissa)
        wider = self.limits.scatter_reduce(0, atom, needed, reduce="amax")
        grown = (wider > self.limits).nonzero()[:, 0]
        doublings = torch.frexp(wider[grown]).exponent.long() - torch.frexp(self.limits[grown]).exponent.long()
        # A first limit comes from 0, which has no exponent; its bins are empty, so any shift will do.
        doublings = doublings.clamp(0, MAX_SHIFT)
        self.limits = wider
        old = self.counts[grown]
        merged = merged_index(torch.arange(2 * self.half), doublings, self.half)
        self.counts[grown] = torch.zeros_like(old).scatter_add_(1, merged, old)
        return Widening(grown, doublings)


def merged_index(index: Int[Tensor, " bins"], doublings: Int[Tensor, " m"], half: int) -> Int[Tensor, "m bins"]:
    """Where each of ``2 * half`` equal parts of ``(-limit, limit)`` lies once the limit has doubled so often."""
    return ((index - half)[None, :] >> doublings[:, None]) + half
