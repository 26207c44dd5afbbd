"""Correlations of the residual with every atom, in the two forms that a pursuit can use.

All forms have the same methods, so each pursuit is written once:

- ``GramCorrelations`` (Rubinstein, Zibulevsky, Elad 2008, "Batch-OMP") multiplies by the atoms once and then moves
  along rows of the Gram matrix: the work of a step does not depend on d.
- ``ResidualCorrelations`` keeps the residual itself and multiplies by the atoms at each step: no n x n matrix.

Atoms in half precision are widened when they enter a sum, a part at a time, so that no copy of all is made.
"""

import math
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

# Lengths of the pieces into which rows of a part of a matrix are cut; shorter ones cost more than a copy.
SHORTEST_PIECE, LONGEST_PIECE = 128, 1024
# Bytes of half-precision rows that are widened at a time.
WIDENED_BYTES = 32 * 2**20


def correlate(
    x: Float[Tensor, "batch d"], atoms: Float[Tensor, "n d"], out: Float[Tensor, "batch n"] | None = None
) -> Float[Tensor, "batch n"]:
    """Return ``x @ atoms.T`` in the precision of x, which is at least that of the atoms."""
    out = x.new_empty(len(x), len(atoms)) if out is None else out
    if atoms.dtype == x.dtype:
        return torch.mm(x, atoms.T, out=out)
    size = max(1, WIDENED_BYTES // (x.itemsize * max(1, x.shape[1])))
    for start in range(0, len(atoms), size):
        torch.mm(x, atoms[start : start + size].to(x.dtype).T, out=out[:, start : start + size])
    return out


def combine(
    support: Int[Tensor, "batch t"], coefficients: Float[Tensor, "batch t"], rows: Float[Tensor, "n m"]
) -> Float[Tensor, "batch m"]:
    """Return ``sum_t coefficients[:, t] * rows[support[:, t]]`` without a (batch, t, m) intermediate; -1 adds nothing.

    In the precision of the rows, but at least in single precision.
    """
    dtype = torch.promote_types(rows.dtype, torch.float32)
    weights = coefficients.to(dtype).masked_fill(support < 0, 0.0)
    if support.shape[1] == 0 or len(rows) == 0:
        return weights.new_zeros(len(support), rows.shape[1])
    support = support.clamp(min=0)
    if rows.dtype != dtype:
        total = weights.new_zeros(len(support), rows.shape[1])
        for step in range(support.shape[1]):
            total += weights[:, step, None] * rows[support[:, step]]
        return total
    stride, width = rows.stride(0), rows.shape[1]
    piece = math.gcd(stride, LONGEST_PIECE)
    if rows.is_contiguous() or piece < SHORTEST_PIECE or rows.stride(1) != 1 or rows.storage_offset() != 0:
        return functional.embedding_bag(support, rows, mode="sum", per_sample_weights=weights)
    # `embedding_bag` would copy a corner of a larger matrix, as the Gram of a growing dictionary is, at every call. Cut
    # into pieces of equal length, its rows are adjacent in memory and nothing is copied.
    pieces = -(-width // piece)
    table = rows.as_strided((((len(rows) - 1) * stride + pieces * piece) // piece, piece), (piece, 1))
    index = support[:, None] * (stride // piece) + torch.arange(pieces, device=rows.device)[:, None]
    weights = weights[:, None].expand_as(index)
    summed = functional.embedding_bag(index.flatten(0, 1), table, mode="sum", per_sample_weights=weights.flatten(0, 1))
    return summed.view(len(support), pieces * piece)[:, :width]


class Best(NamedTuple):
    """The atoms that explain the residuals best.

    Attributes:
        atom: (batch,) int64, the lowest index of equal ones.
        correlation: (batch,) with the residual.
        score: (batch,) its absolute value; the correlation itself if coefficients are non-negative.
        square_norm: (batch,) of the atom: those stored in half precision are not quite of unit norm.
    """

    atom: Int[Tensor, " batch"]
    correlation: Float[Tensor, " batch"]
    score: Float[Tensor, " batch"]
    square_norm: Float[Tensor, " batch"]


@runtime_checkable
class Correlations(Protocol):
    """Correlations of the current residual with the atoms."""

    def best(self, nonnegative: bool) -> Best:
        """Find the atoms with the largest |correlation|, or with the largest correlation."""

    def subtract(self, atom: Int[Tensor, " batch"], coefficient: Float[Tensor, " batch"]) -> None:
        """Subtract ``coefficient * atom`` from the residual, in place."""

    def replace(self, support: Int[Tensor, "batch t"], coefficients: Float[Tensor, "batch t"]) -> None:
        """Make the residual ``x - coefficients @ atoms[support]``."""

    def inner(self, support: Int[Tensor, "batch t"], atom: Int[Tensor, " batch"]) -> Float[Tensor, "batch t"]:
        """Return inner products of the chosen atoms with the last best atom."""


@runtime_checkable
class LocalCorrelations(Correlations, Protocol):
    """Correlations with all atoms, in this process."""

    @property
    def current(self) -> Float[Tensor, "batch n"]:
        """(batch, n) the correlations."""


def largest(
    current: Float[Tensor, "batch n"], nonnegative: bool, scratch: Float[Tensor, "batch n"]
) -> tuple[Float[Tensor, " batch"], Int[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Return score, index and value of each row's largest |entry| (``nonnegative``: entry); overwrites ``scratch``."""
    score, index = (current if nonnegative else torch.abs(current, out=scratch)).max(dim=1)
    return score, index, current.gather(1, index[:, None])[:, 0]


class GramCorrelations:
    """The Gram form: one row of the Gram per activation and step."""

    def __init__(self, x: Float[Tensor, "batch d"], atoms: Float[Tensor, "n d"], gram: Float[Tensor, "n n"]) -> None:
        self.gram = gram
        self.initial = correlate(x, atoms)
        self.current = self.initial.clone()
        self.rows = torch.empty_like(self.initial)  # fresh memory at each step would cost more than the sums

    def best(self, nonnegative: bool) -> Best:
        score, atom, correlation = largest(self.current, nonnegative, self.rows)
        return Best(atom, correlation, score, self.gram[atom, atom])

    def subtract(self, atom: Int[Tensor, " batch"], coefficient: Float[Tensor, " batch"]) -> None:
        torch.index_select(self.gram, 0, atom, out=self.rows)
        self.current.addcmul_(self.rows, coefficient[:, None], value=-1)

    def replace(self, support: Int[Tensor, "batch t"], coefficients: Float[Tensor, "batch t"]) -> None:
        torch.sub(self.initial, combine(support, coefficients, self.gram), out=self.current)

    def inner(self, support: Int[Tensor, "batch t"], atom: Int[Tensor, " batch"]) -> Float[Tensor, "batch t"]:
        return self.gram[support.clamp(min=0), atom[:, None]]


class ResidualCorrelations:
    """The residual form: one product with all atoms per step."""

    def __init__(self, x: Float[Tensor, "batch d"], atoms: Float[Tensor, "n d"]) -> None:
        self.x, self.atoms = x, atoms
        self.residual = x.clone()
        self.current = correlate(self.residual, atoms)
        self.scratch = torch.empty_like(self.current)

    def best(self, nonnegative: bool) -> Best:
        score, atom, correlation = largest(self.current, nonnegative, self.scratch)
        return Best(atom, correlation, score, self.inner(atom[:, None], atom)[:, 0])

    def subtract(self, atom: Int[Tensor, " batch"], coefficient: Float[Tensor, " batch"]) -> None:
        self.residual.addcmul_(self.atoms[atom].to(self.x.dtype), coefficient[:, None], value=-1)
        correlate(self.residual, self.atoms, out=self.current)

    def replace(self, support: Int[Tensor, "batch t"], coefficients: Float[Tensor, "batch t"]) -> None:
        self.residual = self.x - combine(support, coefficients, self.atoms)
        correlate(self.residual, self.atoms, out=self.current)

    def inner(self, support: Int[Tensor, "batch t"], atom: Int[Tensor, " batch"]) -> Float[Tensor, "batch t"]:
        products, best = self.x.new_empty(support.shape), self.atoms[atom].to(self.x.dtype)
        # One after another: the atoms of a whole support would take k times the memory of x.
        for step in range(support.shape[1]):
            products[:, step] = (self.atoms[support[:, step].clamp(min=0)] * best).sum(1)
        return products


class VisibleCorrelations:
    """Correlations of each sample with its first atoms only; the others are 0, which wins no step."""

    def __init__(self, correlations: LocalCorrelations, visible: Int[Tensor, " batch"]) -> None:
        self.correlations = correlations
        n = correlations.current.shape[1]
        self.first = int(visible.min()) if len(visible) else n
        self.hidden = torch.arange(self.first, n, device=visible.device) >= visible[:, None]
        self._hide()

    @property
    def current(self) -> Float[Tensor, "batch n"]:
        return self.correlations.current

    def best(self, nonnegative: bool) -> Best:
        return self.correlations.best(nonnegative)

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
