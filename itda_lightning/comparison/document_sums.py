"""Sums of quantities of tokens by document: ratios of sums, with standard errors from resampling the documents."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.comparison.bootstrap import DocumentGroups, standard_error
from itda_lightning.results.comparison import Estimate

RESAMPLES = 1000
# Resampled sums that are formed at a time: (resamples, width) numbers.
BLOCK_NUMBERS = 2**22


class DocumentSums:
    """Running sums over the tokens of each document.

    All sums of the same documents share their resamples, so the standard errors of several entries compare.

    Attributes:
        documents: the documents, one group each.
        sums: name -> (documents,) or (documents, width) float64.

    Raises:
        InputError: tokens of a single document.
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

        Args:
            statistic: takes the named sums, each with a leading axis of resamples, and returns one number per resample.
        """
        parts = [self.sums[name] for name in names]
        value = float(statistic(*(part.sum(0, keepdim=True) for part in parts)))
        width = sum(part[0].numel() for part in parts)
        resampled = [
            statistic(*(torch.tensordot(times.double(), part, dims=1) for part in parts))
            for times in self.documents.times.split(max(1, BLOCK_NUMBERS // width))
        ]
        return Estimate(value, float(standard_error(torch.cat(resampled))))
