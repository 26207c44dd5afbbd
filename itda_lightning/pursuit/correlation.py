"""Correlations of the residual with every atom, in the two forms that a pursuit, written once, can use.

- ``GramCorrelations`` (Rubinstein, Zibulevsky, Elad 2008, "Batch-OMP") multiplies by the atoms once and then moves
  along rows of the Gram matrix: the work of a step does not depend on d.
- ``ResidualCorrelations`` keeps the residual itself and multiplies by the atoms at each step: no n x n matrix.

Atoms in half precision are widened when they enter a sum, a part at a time, so that no copy of all is made.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

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
    """Return ``x @ atoms.T`` in the precision of x, at least that of the atoms, whatever is set for other products."""
    out = x.new_empty(len(x), len(atoms)) if out is None else out
    with full_precision(x.device):
        if atoms.dtype == x.dtype:
            return torch.mm(x, atoms.T, out=out)
        size = max(1, WIDENED_BYTES // (x.itemsize * max(1, x.shape[1])))
        for start in range(0, len(atoms), size):
            torch.mm(x, atoms[start : start + size].to(x.dtype).T, out=out[:, start : start + size])
        return out


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Multiply in full float32: TF32 and autocast would round the correlations that decide which atom is picked."""
    matmul = torch.backends.cuda.matmul
    name, full = ("fp32_precision", "ieee") if hasattr(matmul, "fp32_precision") else ("allow_tf32", False)
    before = getattr(matmul, name)
    setattr(matmul, name, full)
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        setattr(matmul, name, before)


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
    """The atoms that explain the residuals best."""

    atom: Int[Tensor, " batch"]  # the lowest index of equal ones
    correlation: Float[Tensor, " batch"]
    score: Float[Tensor, " batch"]  # |correlation|; the correlation itself if coefficients are non-negative
    square_norm: Float[Tensor, " batch"]  # of the atom: those stored in half precision are not quite of unit norm


def largest(
    current: Float[Tensor, "batch n"], nonnegative: bool, scratch: Float[Tensor, "batch n"]
) -> tuple[Float[Tensor, " batch"], Int[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Return score, index and value of each row's largest |entry| (``nonnegative``: entry); overwrites ``scratch``."""
    score, index = (current if nonnegative else torch.abs(current, out=scratch)).max(dim=1)
    return score, index, current.gather(1, index[:, None])[:, 0]


class Correlations(ABC):
    """Correlations ``current`` of the residuals with the atoms of this process."""

    def __init__(self, x: Float[Tensor, "batch d"], atoms: Float[Tensor, "n d"]) -> None:
        self.x, self.atoms = x, atoms
        self.current = correlate(x, atoms)
        self.scratch = torch.empty_like(self.current)  # fresh memory at each step would cost more than the sums
        self.hidden: Tensor | None = None

    def show_first(self, visible: Int[Tensor, " batch"]) -> None:
        """Let each sample see that many first atoms only."""
        self.first_hidden = int(visible.min())
        self.hidden = torch.arange(self.first_hidden, len(self.atoms), device=visible.device) >= visible[:, None]
        self.hide()

    def hide(self) -> None:
        """Set the correlations with atoms that a sample does not see to 0, which wins no step."""
        if self.hidden is not None:
            self.current[:, self.first_hidden :].masked_fill_(self.hidden, 0.0)

    def best(self, nonnegative: bool) -> Best:
        """Find the atoms with the largest |correlation|, or with the largest correlation."""
        score, atom, correlation = largest(self.current, nonnegative, self.scratch)
        return Best(atom, correlation, score, self.inner(atom[:, None], atom)[:, 0])

    @abstractmethod
    def subtract(self, atom: Int[Tensor, " batch"], coefficient: Float[Tensor, " batch"]) -> None:
        """Subtract ``coefficient * atom``, the last best atom, from the residual, in place."""

    @abstractmethod
    def replace(self, support: Int[Tensor, "batch t"], coefficients: Float[Tensor, "batch t"]) -> None:
        """Make the residual ``x - coefficients @ atoms[support]``."""

    @abstractmethod
    def inner(self, support: Int[Tensor, "batch t"], atom: Int[Tensor, " batch"]) -> Float[Tensor, "batch t"]:
        """Return inner products of the chosen atoms with the last best atom."""


class GramCorrelations(Correlations):
    """The Gram form: one row of the Gram, of which there may be more than atoms here, per activation and step."""

    def __init__(self, x: Float[Tensor, "batch d"], atoms: Float[Tensor, "n d"], gram: Float[Tensor, "all n"]) -> None:
        super().__init__(x, atoms)
        self.gram, self.initial = gram, self.current.clone()

    def subtract(self, atom: Int[Tensor, " batch"], coefficient: Float[Tensor, " batch"]) -> None:
        torch.index_select(self.gram, 0, atom, out=self.scratch)
        self.current.addcmul_(self.scratch, coefficient[:, None], value=-1)
        self.hide()

    def replace(self, support: Int[Tensor, "batch t"], coefficients: Float[Tensor, "batch t"]) -> None:
        torch.sub(self.initial, combine(support, coefficients, self.gram), out=self.current)
        self.hide()

    def inner(self, support: Int[Tensor, "batch t"], atom: Int[Tensor, " batch"]) -> Float[Tensor, "batch t"]:
        return self.gram[support.clamp(min=0), atom[:, None]]


class ResidualCorrelations(Correlations):
    """The residual form: one product with all atoms per step."""

    def __init__(self, x: Float[Tensor, "batch d"], atoms: Float[Tensor, "n d"]) -> None:
        super().__init__(x, atoms)
        self.residual = x.clone()

    def rows_of(self, atom: Int[Tensor, " batch"]) -> Float[Tensor, "batch d"]:
        """Return the last best atoms in the precision of x."""
        return self.atoms[atom].to(self.x.dtype)

    def update(self) -> None:
        """Compute the correlations with the residual anew."""
        correlate(self.residual, self.atoms, out=self.current)
        self.hide()

    def subtract(self, atom: Int[Tensor, " batch"], coefficient: Float[Tensor, " batch"]) -> None:
        self.residual.addcmul_(self.rows_of(atom), coefficient[:, None], value=-1)
        self.update()

    def replace(self, support: Int[Tensor, "batch t"], coefficients: Float[Tensor, "batch t"]) -> None:
        self.residual = self.x - combine(support, coefficients, self.atoms)
        self.update()

    def inner(self, support: Int[Tensor, "batch t"], atom: Int[Tensor, " batch"]) -> Float[Tensor, "batch t"]:
        products, best = self.x.new_empty(support.shape), self.rows_of(atom)
        # One after another: the atoms of a whole support would take k times the memory of x.
        for step in range(support.shape[1]):
            products[:, step] = (self.atoms[support[:, step].clamp(min=0)] * best).sum(1)
        return products
