"""Standard errors by resampling documents (the bootstrap of Efron 1979, by clusters)."""

from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.errors import InputError

GROUPS = 16


class DocumentGroups:
    """Documents dealt into groups at random, as evenly as possible, which are drawn with replacement.

    Tokens of one document resemble each other, so documents are resampled, not tokens. Statistics of megabytes cannot
    be kept for every document, so whole groups are drawn: with G groups a standard error is itself off by about a share
    1 / sqrt(2 G), and too small by about 1 / (2 G).

    Attributes:
        documents: (documents,) int64, sorted.
        n_groups: number of groups; 1 without resamples.
    """

    def __init__(
        self,
        documents: Int[Tensor, " tokens"],
        resamples: int,
        groups: int | None = GROUPS,
        seed: int = 0,
    ) -> None:
        """Deal the documents of tokens into groups.

        Args:
            documents: (tokens,) the document of each token.
            resamples: number of resamples.
            groups: number of groups; None for one group per document.
            seed: seed of the groups and of the resampling.

        Raises:
            InputError: resamples of fewer than two documents, which have no standard error.
        """
        self.documents = documents.unique()
        self.resamples = resamples
        count = len(self.documents)
        if count < 2 and resamples:
            raise InputError(
                f"the tokens are of {count} document, so no standard error can be computed: "
                "raise data.validation_tokens, and data.training_tokens if sources are compared"
            )
        self._generator = torch.Generator().manual_seed(seed)
        if groups is None:
            self.n_groups, self._group = count, torch.arange(count)
        else:
            self.n_groups = min(groups, count) if resamples else 1
            order = torch.randperm(count, generator=self._generator)
            self._group = torch.arange(count)[order] % self.n_groups

    @cached_property
    def times(self) -> Int[Tensor, "resamples groups"]:
        """(resamples, groups) int64, how often each resample draws each group."""
        shape = (self.resamples, self.n_groups)
        drawn = torch.randint(self.n_groups, shape, generator=self._generator)
        return torch.zeros(shape, dtype=torch.int64).scatter_add_(1, drawn, torch.ones_like(drawn))

    def of(self, documents: Int[Tensor, " tokens"]) -> Int[Tensor, " tokens"]:
        """Return the group (tokens,) of each token, by its document, which must be known."""
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
