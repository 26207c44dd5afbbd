"""The path of a pursuit: what must be remembered to tell if one more atom would have changed it."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Scores that are computed at a time.
BLOCK_ENTRIES = 2**21


@dataclass
class Path:
    """The steps of a batch of pursuits, written by them.

    Attributes:
        best: (batch, k) the score that won each step; infinite for steps that a sample did not reach.
        history: (batch, k, k) row t holds the coefficients of the first t atoms of the support before step t.
    """

    best: Float[Tensor, "batch k"]
    history: Float[Tensor, "batch k k"]

    @classmethod
    def empty(cls, x: Float[Tensor, "batch d"], k: int) -> "Path":
        """Allocate the path of pursuits of k steps, in the dtype of x."""
        return cls(x.new_full((len(x), k), torch.inf), x.new_zeros(len(x), k, k))

    def rows(self, which: slice) -> "Path":
        """Return the same memory for a part of the batch."""
        return Path(self.best[which], self.history[which])

    def record(
        self,
        step: int,
        active: Bool[Tensor, " batch"],
        score: Float[Tensor, " batch"],
        coefficients: Float[Tensor, "batch k"],
    ) -> None:
        """Write down a step: the score to beat, for samples that have not ended, and the coefficients before it."""
        self.best[:, step] = torch.where(active, score, torch.inf)
        self.history[:, step, :step] = coefficients[:, :step]

    def changed_by(
        self,
        correlation: Float[Tensor, "batch m"],
        inner: Float[Tensor, "m n"],
        support: Int[Tensor, "batch k"],
        nonnegative: bool,
    ) -> Bool[Tensor, "batch m"]:
        """Tell which further atoms, at the end of the dictionary, would win a step of which samples.

        Args:
            correlation: (batch, m) inner products of the activations with the atoms.
            inner: (m, n) inner products of the dictionary's atoms with them.
            support: (batch, k) the supports of the pursuits.

        Returns:
            (batch, m) bool.
        """
        won = torch.zeros_like(correlation, dtype=torch.bool)
        # (rows, k, m) scores at a time: at each step the atom's part of x, less what the code explains already.
        rows = max(1, BLOCK_ENTRIES // max(1, inner.shape[0] * support.shape[1]))
        for start in range(0, len(support), rows):
            block = slice(start, start + rows)
            chosen = inner[:, support[block].clamp(min=0)].permute(1, 2, 0)
            score = torch.baddbmm(correlation[block, None, :], self.history[block], chosen, alpha=-1)
            won[block] = ((score if nonnegative else score.abs()) > self.best[block, :, None]).any(1)
        return won
