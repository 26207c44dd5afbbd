"""Correlations of the residual with every atom, in the two forms that a pursuit can use.

Both forms answer the same three questions, so each pursuit is written once:

- ``GramCorrelations`` (Rubinstein, Zibulevsky, Elad 2008, "Batch-OMP") multiplies by the atoms once and then moves
  along rows of the Gram matrix: the work of a step does not depend on d.
- ``ResidualCorrelations`` keeps the residual itself and multiplies by the atoms at each step: no n x n matrix.
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional


def combine(
    support: Int[Tensor, "batch t"], coefficients: Float[Tensor, "batch t"], rows: Float[Tensor, "n m"]
) -> Float[Tensor, "batch m"]:
    """``sum_t coefficients[:, t] * rows[support[:, t]]`` without a (batch, t, m) intermediate; -1 counts as nothing."""
    weights = coefficients.to(rows.dtype).masked_fill(support < 0, 0.0)
    if support.shape[1] == 0 or len(rows) == 0:
        return rows.new_zeros(len(support), rows.shape[1])
    return functional.embedding_bag(support.clamp(min=0), rows, mode="sum", per_sample_weights=weights)


@runtime_checkable
class Correlations(Protocol):
    """Correlations of the current residual with the atoms."""

    current: Float[Tensor, "batch n"]

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

    def subtract(self, atom: Int[Tensor, " batch"], coefficient: Float[Tensor, " batch"]) -> None:
        self.current.addcmul_(self.gram[atom], coefficient[:, None], value=-1)

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
