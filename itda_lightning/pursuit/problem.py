"""The problem that every pursuit solves: which activations to encode, and when to stop."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.pursuit.path import Path

# Below this share of |x| a correlation is rounding noise: picking it would grow the support and explain nothing.
NOISE_FLOOR = 1e-6
# An atom whose part outside the span of the support has a squared norm below this cannot be told from the span in
# single precision; taking it would make the least-squares coefficients meaningless.
MIN_NEW_DIRECTION = 1e-6


class Limits(NamedTuple):
    """The numbers at which the pursuit of each activation ends, in double precision.

    Attributes:
        energy: (batch,) squared norms of the activations.
        floor: (batch,) scores up to this are rounding noise.
        target: (batch,) residual energies that explain enough; negative for none.
    """

    energy: Float[Tensor, " batch"]
    floor: Float[Tensor, " batch"]
    target: Float[Tensor, " batch"]


class Problem(NamedTuple):
    """Activations to encode. All of it is valid: the public functions have checked.

    Attributes:
        x: (batch, d) finite activations.
        k: the number of atoms that a code may use.
        nonnegative: whether coefficients must not be negative.
        error_threshold: stop once the residual energy is at most this share of ``|x|^2``: a number for all activations,
            (batch,) one per activation, or None for never.
        path: filled in with the steps, if given.
        visible: (batch,) int64, the number of first atoms that each activation may use; None for all.
    """

    x: Float[Tensor, "batch d"]
    k: int
    nonnegative: bool = False
    error_threshold: float | Tensor | None = None
    path: Path | None = None
    visible: Int[Tensor, " batch"] | None = None

    def part(self, rows: slice) -> "Problem":
        """Return the problem of some of the activations; a path shares its memory."""
        threshold = self.error_threshold
        return self._replace(
            x=self.x[rows],
            error_threshold=threshold[rows] if isinstance(threshold, Tensor) else threshold,
            path=None if self.path is None else self.path.rows(rows),
            visible=None if self.visible is None else self.visible[rows],
        )

    def blocks(self, size: int, dtype: torch.dtype) -> Iterator["Problem"]:
        """Yield the problem in blocks of ``size`` activations of this dtype; at least one block, which may be empty."""
        for start in range(0, max(len(self.x), 1), size):
            block = self.part(slice(start, start + size))
            yield block._replace(x=block.x.to(dtype))

    def limits(self) -> Limits:
        """Compute where each pursuit ends."""
        energy = self.x.double().square().sum(-1)
        threshold = self.error_threshold if self.error_threshold is not None else -1.0
        return Limits(energy, NOISE_FLOOR * energy.sqrt(), energy * threshold)
