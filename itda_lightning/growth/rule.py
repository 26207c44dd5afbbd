"""The rule that decides which activations become atoms, and what one step of growth returns."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from itda_lightning.pursuit import PursuitName, SparseCode, correlate

# Two unit vectors with a cosine of at least this are one atom: the second would repeat the label and explain nothing.
DUPLICATE_COSINE = 0.999
# Cosines that are computed at a time: with all of a large dictionary they would take more memory than a pursuit.
COMPARED_ENTRIES = 2**24
# `pursue`, or `pursue_among_ranks` if all processes grow the same dictionary.
Encode = Callable[..., SparseCode]


class GrowthRule(NamedTuple):
    """An activation x, centred, whose residual r leaves ``|r|^2 > threshold * reference(x)`` becomes an atom.

    The published rule judges every activation by its own energy. Language models have tokens whose energy is thousands
    of times the usual: a residual that is small beside them is still larger than everything else, and one atom serves
    all of them well enough by that rule. A smaller ``energy_exponent`` asks for more of activations with more energy.

    Attributes:
        k, pursuit, nonnegative: the code whose residual is judged; see ``pursuit.judging``.
        threshold: strictly between 0 and 1.
        energy_exponent: p of ``reference(x) = |x|^(2 p) typical_energy^(1 - p)``, in [0, 1]: 1 is the published rule,
            0 asks the same squared error of all activations.
        typical_energy: ``|x|^2`` of a usual activation.
    """

    k: int
    pursuit: PursuitName
    nonnegative: bool
    threshold: float
    energy_exponent: float = 1.0
    typical_energy: float = 1.0

    def reference(self, x: Float[Tensor, "batch d"]) -> Float[Tensor, " batch"]:
        """Return the (batch,) energies by which residual energies are measured."""
        energy = x.square().sum(-1)
        if self.energy_exponent == 1:
            return energy
        # By way of the ratio: the powers alone could leave the range of single precision.
        return self.typical_energy * (energy / self.typical_energy) ** self.energy_exponent

    def shares(self, x: Float[Tensor, "batch d"]) -> Float[Tensor, " batch"] | float:
        """Return the (batch,) shares of energy that may stay unexplained, or one number if all are equal."""
        if self.energy_exponent == 1:
            return self.threshold
        energy = x.double().square().sum(-1)
        # Without energy there is nothing to explain, and the share would not be a number.
        return torch.where(energy > 0, self.threshold * self.reference(x.double()) / energy, 1.0)

    def similarity(self, cosine: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the similarity of two unit vectors; without negative coefficients opposite ones are not alike."""
        return cosine if self.nonnegative else cosine.abs()

    def repeats(self, candidates: Float[Tensor, "m d"], atoms: Float[Tensor, "n d"]) -> Bool[Tensor, " m"]:
        """Find the unit rows that nearly repeat one of the atoms."""
        parts = candidates.split(max(1, COMPARED_ENTRIES // max(1, len(atoms))))
        return torch.cat([(self.similarity(correlate(part, atoms)) >= DUPLICATE_COSINE).any(1) for part in parts])

    @property
    def admits_repeats(self) -> bool:
        """Tell if an activation that nearly repeats an atom may still be over the threshold."""
        return self.energy_exponent < 1 or self.threshold < 1 - DUPLICATE_COSINE**2


class Growth(NamedTuple):
    """One step of growth.

    Attributes:
        accepted: (m,) int64 indices of the activations that become atoms, in the order of their atoms.
        atoms: (m, d) the same activations, scaled to unit norm.
        residual_energy: (batch,) squared residual norm of every activation under the dictionary that judged it.
    """

    accepted: Int[Tensor, " m"]
    atoms: Float[Tensor, "m d"]
    residual_energy: Float[Tensor, " batch"]


def unexplained_threshold(paper_threshold: float, d_in: int) -> float:
    """Return the unexplained share of energy at which ``cos(x, x_hat)`` is the released code's limit: ``1 - cos^2``.

    That code compares its ``tau`` with the mean over d of the squared difference of the two unit vectors, (2 - 2 cos) /
    d. Exact if the residual is orthogonal to the reconstruction, as in orthogonal matching pursuit.

    Raises:
        ValueError: a ``tau`` that accepts every reconstruction (so nothing would ever be appended) or none.
    """
    cosine = 1.0 - paper_threshold * d_in / 2.0
    if not 0.0 < cosine < 1.0:
        raise ValueError(
            f"the paper's threshold {paper_threshold:g} at d_in {d_in} means cos(x, x_hat) < {cosine:.4g}: "
            + ("nothing" if cosine <= 0 else "everything")
            + f" would be appended; give a value between 0 and 2 / d_in = {2 / d_in:.3g}"
        )
    return 1.0 - cosine**2
