"""Density, histogram and top contexts of chosen latents on held-out activations."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.errors import InputError
from itda_lightning.evaluation.entries import Entry
from itda_lightning.evaluation.held_out_codes import POSITION, ROW, CodesMeter
from itda_lightning.evaluation.used_latents import Used, directions_of, used_latents


class LatentUse(NamedTuple):
    """The use of one latent; see ``LatentSummary`` for the fields."""

    latent: int
    density: float
    limit: float
    histogram: tuple[int, ...]
    top: tuple[tuple[int, float], ...]


class LatentUsageMeter:
    """Count what chosen latents of one entry are used for; memory is in proportion to their uses.

    Args:
        entry: encodes the activations.
        latents: (m,) the latents of interest, each once.
        context_size: tokens per row; with it a source's row and position give the index of its token.
        top: number of tokens with the largest ``|activation|`` to keep; of equal ones the earliest.
        bins: bins per histogram, an even number.

    Raises:
        InputError: bins that are not a positive even number, or a negative number of examples.
    """

    def __init__(self, entry: Entry, latents: Int[Tensor, " m"], context_size: int, top: int, bins: int) -> None:
        if bins < 2 or bins % 2:
            raise InputError(f"a histogram must have a positive even number of bins, got {bins}")
        if top < 0:
            raise InputError(f"the number of top examples must not be negative, got {top}")
        self.entry, self.latents, self.context_size, self.top, self.bins = entry, latents, context_size, top, bins
        self._index = torch.full((len(directions_of(entry)),), -1, dtype=torch.int64)
        self._index[latents] = torch.arange(len(latents))
        self._codes = CodesMeter(len(latents))

    def update(self, x: Float[Tensor, "batch d"], table: Int[Tensor, "batch 6"]) -> None:
        """Encode a batch with its sources and keep the uses. Raises ValueError for activations that are not finite."""
        self._codes.update(map(self._chosen, used_latents(self.entry, x)), table)

    def _chosen(self, used: Used) -> Used:
        index = self._index[used.latent]
        chosen = index >= 0
        return Used(used.token[chosen], index[chosen], used.activation[chosen])

    def compute(self) -> Iterator[LatentUse]:
        """Return one ``LatentUse`` per chosen latent, in their order. Raises InputError if nothing was read."""
        codes = self._codes.compute()
        place = (codes.sources[codes.token, ROW] * self.context_size + codes.sources[codes.token, POSITION]).numpy()
        activation = codes.activation.numpy()
        columns = zip(
            self.latents.tolist(),
            codes.limits.tolist(),
            codes.histograms(self.bins // 2).tolist(),
            codes.largest(self.top).tolist(),
            strict=True,
        )
        for latent, limit, histogram, largest in columns:
            top = tuple((int(place[use]), float(activation[use])) for use in largest if use >= 0)
            yield LatentUse(latent, sum(histogram) / codes.n_tokens, limit, tuple(histogram), top)
