"""Sums of per-token quantities by document: ratios of sums, with errors from resampling the documents."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.errors import InputError
from itda_lightning.results.comparison import Estimate

RESAMPLES = 1000
# Resampled sums that are formed at a time: (resamples, width) numbers.
BLOCK_NUMBERS = 2**22


class DocumentSums:
    """Running sums over the tokens of each document.

    Tokens of one document resemble each other, so it is documents that are resampled (the bootstrap of Efron 1979 by
    clusters): an error says how figures would vary with other documents of the kind.

    Attributes:
        documents: (documents,) int64, sorted.
        sums: name -> (documents,) or (documents, width) float64.
    """

    def __init__(self, documents: Int[Tensor, " tokens"]) -> None:
        """Raises InputError where all tokens are of one document: no error could be told."""
        self.documents = documents.unique()
        self.sums: dict[str, Tensor] = {}
        if len(self.documents) < 2:
            raise InputError(
                f"the held-out tokens are of {len(self.documents)} document, so no error can be told: "
                "raise data.validation_tokens"
            )

    def add(self, document: Int[Tensor, " tokens"], **values: Float[Tensor, "tokens ..."]) -> None:
        """Add the values of tokens of known documents."""
        index = torch.searchsorted(self.documents, document.contiguous())
        for name, value in values.items():
            if name not in self.sums:
                self.sums[name] = torch.zeros(len(self.documents), *value.shape[1:], dtype=torch.float64)
            self.sums[name].index_add_(0, index, value.double().cpu())

    def estimate(self, statistic: Callable[..., Tensor], *names: str, seed: int = 0) -> Estimate:
        """A statistic of the sums over all documents, with its standard error.

        Args:
            statistic: takes the named sums, each with a leading axis of resamples, and returns one number a resample.
            seed: of the resampling; the same one for all entries, so that their errors compare.
        """
        parts = [self.sums[name] for name in names]
        value = float(statistic(*(part.sum(0, keepdim=True) for part in parts)))
        count = len(self.documents)
        drawn = torch.randint(count, (RESAMPLES, count), generator=torch.Generator().manual_seed(seed))
        weights = torch.zeros(RESAMPLES, count, dtype=torch.float64)
        weights.scatter_add_(1, drawn, torch.ones_like(weights))
        width = sum(part[0].numel() for part in parts)
        resampled = [
            statistic(*(torch.tensordot(block, part, dims=1) for part in parts))
            for block in weights.split(max(1, BLOCK_NUMBERS // width))
        ]
        return Estimate(value, float(torch.cat(resampled).std()))
