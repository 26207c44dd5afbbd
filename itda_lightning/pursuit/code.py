"""The sparse code that every pursuit returns."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

SHOWN = 10  # codes in a notebook's table


class SparseCode(NamedTuple):
    """Sparse codes of activations over ``n`` atoms; ``batch`` is any leading shape, none for a single activation.

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

    support: Int[Tensor, "*batch k"]
    coefficients: Float[Tensor, "*batch k"]
    residual_energy: Float[Tensor, " *batch"]

    @classmethod
    def concatenate(cls, codes: Iterable["SparseCode"]) -> "SparseCode":
        """Join the codes of consecutive parts of a batch."""
        return cls(*(torch.cat(parts) for parts in zip(*codes, strict=True)))

    def reshape(self, *leading: int) -> "SparseCode":
        """Return the same codes with another leading shape."""
        k = self.support.shape[-1]
        shaped = self.support.reshape(*leading, k), self.coefficients.reshape(*leading, k)
        return SparseCode(*shaped, self.residual_energy.reshape(leading))

    def to_dense(self, n: int) -> Float[Tensor, "*batch {n}"]:
        """Return the code as a dense (batch, n) matrix; the coefficients of a re-picked atom are summed."""
        dense = self.coefficients.new_zeros(*self.support.shape[:-1], n)
        # Unused entries are sent to the first column, if there is one.
        return dense.scatter_add_(-1, self.support.clamp(min=0), self.coefficients) if n else dense

    def distinct(self) -> "SparseCode":
        """Return the same code with every atom at most once: re-picks are added to the first pick's column.

        The columns of later picks become unused (-1, 0), so ``(distinct().support >= 0).sum(-1)`` is L0.
        """
        ordered = self.support.sort(-1).values
        if not bool(((ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)).any()):
            return self._replace(coefficients=self.coefficients.masked_fill(self.support < 0, 0.0))
        same = (self.support[..., :, None] == self.support[..., None, :]) & (self.support >= 0)[..., :, None]
        summed = (same * self.coefficients[..., None, :]).sum(-1)
        earlier = torch.ones(same.shape[-2:], dtype=torch.bool, device=same.device).tril(-1)
        repeated = (same & earlier).any(-1) | (self.support < 0)
        support, coefficients = self.support.masked_fill(repeated, -1), summed.masked_fill(repeated, 0.0)
        return SparseCode(support, coefficients, self.residual_energy)

    def l0(self) -> Int[Tensor, " *batch"]:
        """Count the distinct atoms of each code: (batch,) int64, at most k."""
        return (self.distinct().support >= 0).sum(-1)

    def _repr_html_(self) -> str:
        """Return the first codes as a table for notebooks: per activation its atoms, the largest coefficients first."""
        rows = self.distinct().reshape(self.residual_energy.numel())
        lines = []
        for index in range(min(SHOWN, len(rows.support))):
            terms = zip(rows.support[index].tolist(), rows.coefficients[index].tolist(), strict=True)
            used = sorted(((atom, value) for atom, value in terms if atom >= 0), key=lambda term: -abs(term[1]))
            cells = ", ".join(f"{value:+.3g} · atom {atom}" for atom, value in used)
            left = f"{float(rows.residual_energy[index]):.3g}"
            lines.append(f"<tr><td>{index}</td><td>{cells}</td><td>{len(used)}</td><td>{left}</td></tr>")
        more = len(rows.support) - len(lines)
        caption = f"<caption>and {more:,} more</caption>" if more else ""
        heads = "".join(f"<th>{head}</th>" for head in ("activation", "code", "L0", "residual energy"))
        return f"<table>{caption}<tr>{heads}</tr>{''.join(lines)}</table>"
