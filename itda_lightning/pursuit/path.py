"""The path of a pursuit: what must be remembered to tell whether one more atom would have changed it."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass
class Path:
    """The steps of a batch of pursuits, written by them.

    Attributes:
        best: (batch, k) the score that won each step; infinite for steps that a sample did not come to.
        history: (batch, k, k) row t holds the coefficients of the first t atoms of the support before step t.
    """

    best: Float[Tensor, "batch k"]
    history: Float[Tensor, "batch k k"]

    @classmethod
    def empty(cls, x: Float[Tensor, "batch d"], k: int) -> "Path":
        return cls(x.new_full((len(x), k), torch.inf), x.new_zeros(len(x), k, k))

    def rows(self, which: slice) -> "Path":
        """The same memory for a part of the batch."""
        return Path(self.best[which], self.history[which])

    def changed_by(
        self,
        correlation: Float[Tensor, " batch"],
        inner: Float[Tensor, " n"],
        support: Int[Tensor, "batch k"],
        nonnegative: bool,
    ) -> Bool[Tensor, " batch"]:
        """(batch,) whether a further atom, at the end of the dictionary, would win a step of each sample.

        Args:
            correlation: (batch,) inner products of the activations with the atom.
            inner: (n,) inner products of the atoms with it.
            support: (batch, k) the supports of the pursuits.
        """
        chosen = inner[support.clamp(min=0)]
        score = correlation[:, None] - torch.einsum("bts,bs->bt", self.history, chosen)
        return ((score if nonnegative else score.abs()) > self.best).any(-1)
