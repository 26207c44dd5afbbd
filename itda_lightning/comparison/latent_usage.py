"""Density, histogram and top contexts of chosen latents, counted batch by batch with memory that does not grow."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.dictionary.sources import COLUMNS
from itda_lightning.errors import InputError
from itda_lightning.evaluation.best_per_group import BestPerGroup
from itda_lightning.evaluation.entries import Entry
from itda_lightning.evaluation.histograms import CoefficientHistograms
from itda_lightning.evaluation.used_latents import directions_of, used_latents

ROW, POSITION = COLUMNS.index("row"), COLUMNS.index("position")


class LatentUse(NamedTuple):
    """What one latent was used for; see ``LatentSummary`` for the fields."""

    latent: int
    density: float
    limit: float
    histogram: tuple[int, ...]
    top: tuple[tuple[int, float], ...]


class LatentUsageMeter:
    """Counts what chosen latents of one entry are used for; memory is in proportion to their number.

    Args:
        entry: what encodes.
        latents: (m,) the latents of interest, each once.
        context_size: tokens in a row; with it a source's row and position give the index of its token.
        top: how many of the tokens with the largest ``|activation|`` to keep; of equal ones the earliest.
        bins: of a histogram, an even number.

    Raises:
        InputError: bins that are not a positive even number, or a negative number of examples.
    """

    def __init__(self, entry: Entry, latents: Int[Tensor, " m"], context_size: int, top: int, bins: int) -> None:
        if bins < 2 or bins % 2:
            raise InputError(f"a histogram must have a positive even number of bins, got {bins}")
        if top < 0:
            raise InputError(f"the number of top examples must not be negative, got {top}")
        self.entry, self.latents, self.context_size = entry, latents, context_size
        self.n_tokens = 0
        self.group = torch.full((len(directions_of(entry)),), -1, dtype=torch.int64)
        self.group[latents] = torch.arange(len(latents))
        self.histograms = CoefficientHistograms(len(latents), bins // 2)
        self.largest = BestPerGroup(len(latents), top)

    def update(self, x: Float[Tensor, "batch d"], table: Int[Tensor, "batch 6"]) -> None:
        """Encode and count one batch with its sources. Raises ValueError for activations that are not finite."""
        for used in used_latents(self.entry, x):
            group = self.group[used.latent]
            chosen = group >= 0
            group, activation = group[chosen], used.activation[chosen]
            self.histograms.add(group, activation)
            self.largest.add(group, activation.abs(), activation, used.token[chosen], table)
        self.n_tokens += len(x)

    def compute(self) -> Iterator[LatentUse]:
        """One ``LatentUse`` a chosen latent, in their order. Raises InputError where nothing was counted."""
        if self.n_tokens == 0:
            raise InputError("no held-out activations to measure latents on: give at least one")
        place = self.largest.source[..., ROW] * self.context_size + self.largest.source[..., POSITION]
        kept = (self.largest.priority > -torch.inf).sum(1).tolist()
        columns = zip(
            self.latents.tolist(),
            self.histograms.limits.tolist(),
            self.histograms.counts.tolist(),
            kept,
            place.tolist(),
            self.largest.coefficient.tolist(),
            strict=True,
        )
        for latent, limit, counts, n_kept, places, activations in columns:
            top = tuple(zip(places[:n_kept], activations[:n_kept], strict=True))
            yield LatentUse(latent, sum(counts) / self.n_tokens, limit, tuple(counts), top)
