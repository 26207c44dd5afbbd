"""Correlations of the residual with every atom, in the two forms that a pursuit can use.

Both forms answer the same three questions, so each pursuit is written once:

- ``GramCorrelations`` (Rubinstein, Zibulevsky, Elad 2008, "Batch-OMP") multiplies by the atoms once and then moves
  along rows of the Gram matrix: the work of a step does not depend on d.
- ``ResidualCorrelations`` keeps the residual itself and multiplies by the atoms at each step: no n x n matrix.
"""

import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

# Lengths of the pieces that the rows of a part of a matrix are cut into; shorter ones cost more than a copy.
SHORTEST_PIECE, LONGEST_PIECE = 128, 1024


def combine(
    support: Int[Tensor, "batch t"], coefficients: Float[Tensor, "batch t"], rows: Float[Tensor, "n m"]
) -> Float[Tensor, "batch m"]:
    """``sum_t coefficients[:, t] * rows[support[:, t]]`` without a (batch, t, m) intermediate; -1 counts as nothing."""
    weights = coefficients.to(rows.dtype).masked_fill(support < 0, 0.0)
    if support.shape[1] == 0 or len(rows) == 0:
        return rows.new_zeros(len(support), rows.shape[1])
    support = support.clamp(min=0)
    stride, width = rows.stride(0), rows.shape[1]
    piece = math.gcd(stride, LONGEST_PIECE)
    if rows.is_contiguous() or piece < SHORTEST_PIECE or rows.stride(1) != 1 or rows.storage_offset() != 0:
        return functional.embedding_bag(support, rows, mode="sum", per_sample_weights=weights)
    # A corner of a larger matrix, as is the Gram of a growing dictionary, would be copied by `embedding_bag` at every
    # call. Cut into pieces of equal length, its rows are adjacent in memory and nothing is copied.
    pieces = -(-width // piece)
    table = rows.as_strided((((len(rows) - 1) * stride + pieces * piece) // piece, piece), (piece, 1))
    index = support[:, None] * (stride // piece) + torch.arange(pieces, device=rows.device)[:, None]
    weights = weights[:, None].expand_as(index)
    summed = functional.embedding_bag(index.flatten(0, 1), table, mode="sum", per_sample_weights=weights.flatten(0, 1))
    return summed.view(len(support), pieces * piece)[:, :width]


@runtime_checkable
class Correlations(Protocol):
    """Correlations of the current residual with the atoms."""

    @property
    def current(self) -> Float[Tensor, "batch n"]:
        """(batch, n) the correlations."""

    def subtract(self, atom: Int[Tensor, " batch"], coefficient: Float[Tensor, " batch"]) -> None:
        """Take ``coefficient * atom`` away from the residual, in place."""

    def replace(self, support: Int[Tensor, "batch t"], coefficients: Float[Tensor, "batch t"]) -> None:
        """Make the residual ``x - coefficients @ atoms[support]``."""

    def inner(self, support: Int[Tensor, "batch t"], atom: Int[Tensor, " batch"]) -> Float[Tensor, "batch t"]:
        """Inner products of the chosen atoms with one further atom."""


class GramCorrelations:
    """The Gram form: one row of the Gram an activation and step."""

    def __init__(self, x: Float[Tensor, "batch d"], atoms: Float[Tensor, "n d"], gram: Float[Tensor, "n n"]) -> None:
        self.gram = gram
        self.initial = x @ atoms.T
        self.current = self.initial.clone()
        self.rows = torch.empty_like(self.initial)  # fresh memory at each step would cost more than the sums

    def subtract(self, atom: Int[Tensor, " batch"], coefficient: Float[Tensor, " batch"]) -> None:
        torch.index_select(self.gram, 0, atom, out=self.rows)
        self.current.addcmul_(self.rows, coefficient[:, None], value=-1)

    def replace(self, support: Int[Tensor, "batch t"], coefficients: Float[Tensor, "batch t"]) -> None:
        torch.sub(self.initial, combine(support, coefficients, self.gram), out=self.current)

    def inner(self, support: Int[Tensor, "batch t"], atom: Int[Tensor, " batch"]) -> Float[Tensor, "batch t"]:
        return self.gram[support.clamp(min=0), atom[:, None]]


class ResidualCorrelations:
    """The residual form: one product with all atoms a step."""

    def __init__(self, x: Float[Tensor, "batch d"], atoms: Float[Tensor, "n d"]) -> None:
        self.x, self.atoms = x, atoms
        self.residual = x.clone()
        self.current = self.residual @ atoms.T

    def subtract(self, atom: Int[Tensor, " batch"], coefficient: Float[Tensor, " batch"]) -> None:
        self.residual.addcmul_(self.atoms[atom], coefficient[:, None], value=-1)
        torch.mm(self.residual, self.atoms.T, out=self.current)

    def replace(self, support: Int[Tensor, "batch t"], coefficients: Float[Tensor, "batch t"]) -> None:
        self.residual = self.x - combine(support, coefficients, self.atoms)
        torch.mm(self.residual, self.atoms.T, out=self.current)

    def inner(self, support: Int[Tensor, "batch t"], atom: Int[Tensor, " batch"]) -> Float[Tensor, "batch t"]:
        return torch.einsum("btd,bd->bt", self.atoms[support.clamp(min=0)], self.atoms[atom])


class VisibleCorrelations:
    """Correlations of which each sample sees those with its first atoms only: the others are 0, which wins no step."""

    def __init__(self, correlations: Correlations, visible: Int[Tensor, " batch"]) -> None:
        self.correlations = correlations
        n = correlations.current.shape[1]
        self.first = int(visible.min()) if len(visible) else n
        self.hidden = torch.arange(self.first, n, device=visible.device) >= visible[:, None]
        self._hide()

    @property
    def current(self) -> Float[Tensor, "batch n"]:
        return self.correlations.current

    def subtract(self, atom: Int[Tensor, " batch"], coefficient: Float[Tensor, " batch"]) -> None:
        self.correlations.subtract(atom, coefficient)
        self._hide()

    def replace(self, support: Int[Tensor, "batch t"], coefficients: Float[Tensor, "batch t"]) -> None:
        self.correlations.replace(support, coefficients)
        self._hide()

    def inner(self, support: Int[Tensor, "batch t"], atom: Int[Tensor, " batch"]) -> Float[Tensor, "batch t"]:
        return self.correlations.inner(support, atom)

    def _hide(self) -> None:
        self.current[:, self.first :].masked_fill_(self.hidden, 0.0)
