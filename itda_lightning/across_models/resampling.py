"""Errors by resampling documents, for statistics of sums that are too large to be kept for every document."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.errors import InputError

GROUPS = 16


class DocumentGroups:
    """Documents dealt into groups at random, as equal as can be, which are drawn with replacement.

    Tokens of one document resemble each other, so it is documents that are resampled (the bootstrap of Efron 1979 by
    clusters). Moments of a layer are megabytes, so whole groups are drawn: with G groups an error is itself off by
    about a share 1 / sqrt(2 G), and too small by about 1 / (2 G). Without resamples all documents are one group.

    Attributes:
        documents: (documents,) int64, sorted.
        times: (resamples, groups) int64, how often each resample has drawn each group.
    """

    def __init__(self, documents: Int[Tensor, " tokens"], resamples: int, groups: int = GROUPS, seed: int = 0) -> None:
        """Raises InputError where all tokens are of one document and resamples are asked for: no error could be told."""
        self.documents = documents.unique()
        count = len(self.documents)
        if count < 2 and resamples:
            raise InputError(
                f"the tokens to compare on are of {count} document, so no error can be told: raise data.training_tokens and "
                "data.validation_tokens, or set resamples to 0"
            )
        groups = min(groups, count) if resamples else 1
        generator = torch.Generator().manual_seed(seed)
        self._group = torch.arange(count)[torch.randperm(count, generator=generator)] % groups
        drawn = torch.randint(groups, (resamples, groups), generator=generator)
        self.times = torch.zeros(resamples, groups, dtype=torch.int64).scatter_add_(1, drawn, torch.ones_like(drawn))

    @property
    def n_groups(self) -> int:
        return self.times.shape[1]

    def of(self, documents: Int[Tensor, " tokens"]) -> Int[Tensor, " tokens"]:
        """(tokens,) the group of each token, by its document, which must be known."""
        return self._group[torch.searchsorted(self.documents, documents.contiguous())]

    def sums(self, documents: Int[Tensor, " tokens"], values: Float[Tensor, " tokens"]) -> Float[Tensor, " groups"]:
        """(groups,) float64 sums of the values of tokens."""
        return torch.zeros(self.n_groups, dtype=torch.float64).index_add_(0, self.of(documents), values.double())

    def ratios(
        self, above: Float[Tensor, "... groups"], below: Float[Tensor, "... groups"]
    ) -> tuple[Float[Tensor, "..."], Float[Tensor, "resamples ..."]]:
        """The ratio of two sums over all groups, and of each resample."""
        times = self.times.double()
        resampled = [torch.tensordot(times, sums, dims=([1], [-1])) for sums in (above, below)]
        return above.sum(-1) / below.sum(-1), resampled[0] / resampled[1]


def standard_error(resampled: Float[Tensor, "resamples ..."]) -> Float[Tensor, "..."]:
    """The standard deviation over resamples; nan for fewer than two."""
    if len(resampled) < 2:
        return torch.full(resampled.shape[1:], torch.nan, dtype=torch.float64)
    return resampled.std(0)
