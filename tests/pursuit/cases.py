"""Problems for the property tests: activations, atoms and a sparsity, of every kind that a pursuit meets."""

from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

KINDS = ("random", "correlated", "duplicated", "nearly duplicated", "rank-deficient", "in the span", "atoms themselves")


class Case(NamedTuple):
    x: Tensor
    atoms: Tensor
    k: int


def unit_rows(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=1)


def make_case(kind: str, batch: int, n: int, d: int, k: int, scale: float, seed: int) -> Case:
    """A float64 case; ``scale`` multiplies the activations."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, atoms = normal(batch, d), normal(n, d)
    if kind == "correlated":
        mean = 5 * normal(d)
        x, atoms = x + mean, atoms + mean
    elif kind == "duplicated":
        atoms = atoms[torch.randint(0, n, (n,), generator=generator)]
    elif kind == "nearly duplicated":
        atoms = torch.cat([atoms[: (n + 1) // 2], atoms[: n // 2] + 1e-4 * normal(n // 2, d)])
    elif kind == "rank-deficient":
        basis = normal((d + 1) // 2, d)
        atoms = normal(n, len(basis)) @ basis
    elif kind == "in the span":
        basis = normal((d + 1) // 2, d)
        atoms, x = normal(n, len(basis)) @ basis, normal(batch, len(basis)) @ basis
    elif kind == "atoms themselves":
        x = atoms[torch.randint(0, n, (batch,), generator=generator)]
    return Case(x * scale, unit_rows(atoms), k)


def cases(kinds: tuple[str, ...] = KINDS) -> st.SearchStrategy[Case]:
    """Cases from one atom in one dimension up, with k below and above n, and norms from tiny to huge."""
    return st.builds(
        make_case,
        kind=st.sampled_from(kinds),
        batch=st.integers(1, 4),
        n=st.integers(1, 40),
        d=st.integers(1, 24),
        k=st.integers(1, 12),
        scale=st.sampled_from([1.0, 1.0, 1e-6, 1e4, 1e6]),
        seed=st.integers(0, 2**32 - 1),
    )
