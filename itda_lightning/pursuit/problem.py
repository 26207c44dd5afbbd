"""The problem that every pursuit solves: which activations to encode, when to stop, what to remember of the steps."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from itda_lightning.machine.shrinking_blocks import in_blocks
from itda_lightning.pursuit.code import SparseCode

# Below this share of |x| a correlation is rounding noise: picking it would grow the support and explain nothing.
NOISE_FLOOR = 1e-6
# An atom whose part outside the span of the support has a squared norm below this cannot be told from the span in
# single precision; taking it would make the least-squares coefficients meaningless.
MIN_NEW_DIRECTION = 1e-6
# Scores of further atoms that are computed at a time.
BLOCK_ENTRIES = 2**21


@dataclass
class Path:
    """The steps of a batch of pursuits, written by them: they tell if one more atom would have changed a code.

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
            correlation: inner products of the activations with the further atoms.
            inner: inner products of the further atoms with the dictionary's.
            support: of the pursuits.
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


class Problem(NamedTuple):
    """Activations to encode. All of it is valid: the public functions have checked."""

    x: Float[Tensor, "batch d"]
    k: int  # the number of atoms that a code may use
    nonnegative: bool = False
    # Stop once the residual energy is at most this share of |x|^2: one number, or one per activation; None for never.
    error_threshold: float | Tensor | None = None
    path: Path | None = None  # filled in with the steps
    visible: Int[Tensor, " batch"] | None = None  # the number of first atoms that each activation may use; None for all

    def part(self, rows: slice) -> "Problem":
        """Return the problem of some of the activations; a path shares its memory."""
        threshold, path = self.error_threshold, self.path
        return self._replace(
            x=self.x[rows],
            error_threshold=threshold[rows] if isinstance(threshold, Tensor) else threshold,
            path=None if path is None else Path(path.best[rows], path.history[rows]),
            visible=None if self.visible is None else self.visible[rows],
        )

    def blocks(self, size: int, dtype: torch.dtype) -> Iterator["Problem"]:
        """Yield the problem in blocks of ``size`` activations of this dtype; at least one block, which may be empty."""
        for start in range(0, max(len(self.x), 1), size):
            block = self.part(slice(start, start + size))
            yield block._replace(x=block.x.to(dtype))

    def encoded(
        self, size: int, dtype: torch.dtype, encode: Callable[["Problem"], SparseCode], unit: int = 1
    ) -> SparseCode:
        """Encode in blocks of at most ``size`` activations of this dtype; see ``in_blocks``."""

        def work(rows: slice) -> SparseCode:
            block = self.part(rows)
            return encode(block._replace(x=block.x.to(dtype)))

        return SparseCode.concatenate(in_blocks(len(self.x), size, work, unit))

    def limits(self) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """Return squared norms, scores that are rounding noise, and residual energies to end at (negative: never)."""
        energy = self.x.double().square().sum(-1)
        threshold = self.error_threshold if self.error_threshold is not None else -1.0
        return energy, NOISE_FLOOR * energy.sqrt(), energy * threshold
