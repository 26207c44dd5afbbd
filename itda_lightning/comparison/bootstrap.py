"""Sums over documents and their standard errors by resampling documents (the bootstrap of Efron 1979, by clusters)."""

from collections.abc import Callable
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.errors import InputError
from itda_lightning.results.comparison import ByDocument, Estimate
from itda_lightning.results.paired import RESAMPLES, drawn_counts

# Resampled sums that are formed at a time: (resamples, width) numbers.
BLOCK_NUMBERS = 2**22


class DocumentGroups:
    """The documents of tokens dealt into groups at random, as evenly as possible, which are drawn with replacement.

    Tokens of one document resemble each other, so documents are resampled, not tokens. Statistics of megabytes cannot
    be kept for every document, so whole groups are drawn: with G groups a standard error is itself off by about a share
    1 / sqrt(2 G), and too small by about 1 / (2 G). ``groups=None`` makes one group per document; without resamples
    there is one group.

    Raises:
        InputError: resamples of fewer than two documents, which have no standard error.
    """

    def __init__(self, documents: Int[Tensor, " tokens"], resamples: int, groups: int | None = 16) -> None:
        self.documents = documents.unique()
        self.resamples = resamples
        count = len(self.documents)
        if count < 2 and resamples:
            raise InputError(
                f"the tokens are of {count} document, so no standard error can be computed: "
                "raise data.validation_tokens, and data.training_tokens if sources are compared"
            )
        self._generator = torch.Generator().manual_seed(0)
        if groups is None:
            self.n_groups, self._group = count, torch.arange(count)
        else:
            self.n_groups = min(groups, count) if resamples else 1
            self._group = torch.randperm(count, generator=self._generator) % self.n_groups

    @cached_property
    def times(self) -> Int[Tensor, "resamples groups"]:
        """How often each resample draws each group."""
        return drawn_counts(self.n_groups, self.resamples, self._generator)

    def of(self, documents: Int[Tensor, " tokens"]) -> Int[Tensor, " tokens"]:
        """Return the group of each token by its document, which must be known."""
        return self._group[torch.searchsorted(self.documents, documents.contiguous())]

    def sums(self, documents: Int[Tensor, " tokens"], values: Float[Tensor, " tokens"]) -> Float[Tensor, " groups"]:
        """Sum the values of tokens in float64, by group."""
        return torch.zeros(self.n_groups, dtype=torch.float64).index_add_(0, self.of(documents), values.double())

    def ratios(
        self, above: Float[Tensor, "... groups"], below: Float[Tensor, "... groups"]
    ) -> tuple[Float[Tensor, "..."], Float[Tensor, "resamples ..."]]:
        """Return the ratio of two sums over all groups, and that of each resample."""
        times = self.times.double()
        resampled = [torch.tensordot(times, sums, dims=([1], [-1])) for sums in (above, below)]
        return above.sum(-1) / below.sum(-1), resampled[0] / resampled[1]


def standard_error(resampled: Float[Tensor, "resamples ..."]) -> Float[Tensor, "..."]:
    """Return the standard deviation over resamples; nan for fewer than two."""
    if len(resampled) < 2:
        return torch.full(resampled.shape[1:], torch.nan, dtype=torch.float64)
    return resampled.std(0)


class DocumentSums:
    """Running sums by name over the tokens of each document, numbers or vectors in float64.

    All sums of the same documents share their resamples, so the standard errors of several entries compare.
    Raises InputError for tokens of a single document.
    """

    def __init__(self, documents: Int[Tensor, " tokens"]) -> None:
        self.documents = DocumentGroups(documents, RESAMPLES, groups=None)
        self.sums: dict[str, Tensor] = {}

    def update(self, document: Int[Tensor, " tokens"], **values: Float[Tensor, "tokens ..."]) -> None:
        """Add the values of tokens of known documents."""
        index = self.documents.of(document)
        for name, value in values.items():
            if name not in self.sums:
                self.sums[name] = torch.zeros(self.documents.n_groups, *value.shape[1:], dtype=torch.float64)
            self.sums[name].index_add_(0, index, value.double().cpu())

    def estimate(self, statistic: Callable[..., Tensor], *names: str) -> Estimate:
        """Compute a statistic of the sums over all documents, with its standard error.

        ``statistic`` takes the named sums with a leading axis of resamples and returns one number per resample.
        """
        parts = [self.sums[name] for name in names]
        value = float(statistic(*(part.sum(0, keepdim=True) for part in parts)))
        width = sum(part[0].numel() for part in parts)
        resampled = [
            statistic(*(torch.tensordot(times.double(), part, dims=1) for part in parts))
            for times in self.documents.times.split(max(1, BLOCK_NUMBERS // width))
        ]
        return Estimate(value, float(standard_error(torch.cat(resampled))))

    def ratio(self, above: Float[Tensor, " documents"], below: Float[Tensor, " documents"]) -> Estimate:
        """Compute the ratio of two sums over all documents, with its standard error, and keep both in it."""
        value, resampled = self.documents.ratios(above, below)
        sums = ByDocument(tuple(above.tolist()), tuple(below.tolist()))
        return Estimate(float(value), float(standard_error(resampled)), sums)
