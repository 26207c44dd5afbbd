"""The sparse code that every pursuit returns."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class SparseCode(NamedTuple):
    """Sparse codes of a batch of activations over ``n`` atoms.

    Attributes:
        support: (batch, k) int64, atom indices in order of selection, -1 where the pursuit stopped earlier.
        coefficients: (batch, k), the dtype of the computation; 0 where ``support`` is -1. A matching pursuit
            that picks an atom again gives the second pick a column of its own.
        residual_energy: (batch,), squared norm of ``x - coefficients @ atoms[support]``.

    Example:
        >>> import torch
        >>> from itda_lightning import SparseCode
        >>> code = SparseCode(torch.tensor([[2, 0, 2]]), torch.tensor([[3.0, -1.0, 0.5]]), torch.zeros(1))
        >>> code.to_dense(4)
        tensor([[-1.0000,  0.0000,  3.5000,  0.0000]])
        >>> code.l0()
        tensor([2])
    """

    support: Int[Tensor, "batch k"]
    coefficients: Float[Tensor, "batch k"]
    residual_energy: Float[Tensor, " batch"]

    @classmethod
    def concatenate(cls, codes: Iterable["SparseCode"]) -> "SparseCode":
        """Join the codes of consecutive parts of a batch."""
        return cls(*(torch.cat(parts) for parts in zip(*codes, strict=True)))

    def to_dense(self, n: int) -> Float[Tensor, "batch {n}"]:
        """Return the code as a dense (batch, n) matrix; the coefficients of a re-picked atom are summed."""
        dense = self.coefficients.new_zeros(len(self.support), n)
        # Unused entries are sent to the first column, if there is one.
        return dense.scatter_add_(1, self.support.clamp(min=0), self.coefficients) if n else dense

    def distinct(self) -> "SparseCode":
        """Return the same code with every atom at most once: re-picks are added to the first pick's column.

        The columns of later picks become unused (-1, 0), so ``(distinct().support >= 0).sum(-1)`` is L0.
        """
        same = (self.support[:, :, None] == self.support[:, None, :]) & (self.support >= 0)[:, :, None]
        summed = (same * self.coefficients[:, None, :]).sum(-1)
        earlier = torch.ones(same.shape[1:], dtype=torch.bool, device=same.device).tril(-1)
        repeated = (same & earlier).any(-1) | (self.support < 0)
        support, coefficients = self.support.masked_fill(repeated, -1), summed.masked_fill(repeated, 0.0)
        return SparseCode(support, coefficients, self.residual_energy)

    def l0(self) -> Int[Tensor, " batch"]:
        """Count the distinct atoms of each code: (batch,) int64, at most k."""
        return (self.distinct().support >= 0).sum(-1)
