"""The compiled loop of the inner products of activations with the atoms of their codes."""

from itda_lightning.pursuit.kernels.jit import Atoms, Double, Index, Single, compiled
from itda_lightning.pursuit.kernels.sums import accurate_dot


@compiled
def multiply_rows(start: int, stop: int, x: Single, atoms: Atoms, support: Index, products: Double) -> None:
    """Fill in the inner products of the activations ``start..stop`` with the atoms of their support, 0 for none."""
    for i in range(start, stop):
        for s in range(support.shape[1]):
            products[i, s] = accurate_dot(x[i], atoms[support[i, s]]) if support[i, s] >= 0 else 0.0
