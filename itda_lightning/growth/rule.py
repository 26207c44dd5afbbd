"""The rule that decides which activations become atoms, and what one step of growth returns."""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.pursuit import PursuitName

# Two unit vectors with a cosine of at least this are one atom: the second would repeat the label and explain nothing.
DUPLICATE_COSINE = 0.999


class GrowthRule(NamedTuple):
    """An activation whose unexplained share of energy exceeds ``threshold`` becomes an atom.

    Attributes:
        k, pursuit, nonnegative: the code whose residual is judged.
        threshold: fraction of ``|x - bias|^2``, strictly between 0 and 1.
    """

    k: int
    pursuit: PursuitName
    nonnegative: bool
    threshold: float


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


def cosine_threshold(paper_threshold: float, d_in: int) -> float:
    """The smallest cos(x, x_hat) that the released code accepts with its ``tau``: ``1 - tau d / 2``.

    That code compares ``tau`` with the mean over d of the squared difference of the two unit vectors, (2 - 2 cos) / d.
    """
    return 1.0 - paper_threshold * d_in / 2.0


def unexplained_threshold(paper_threshold: float, d_in: int) -> float:
    """The unexplained share of energy at which ``cos(x, x_hat)`` is the released code's limit: ``1 - cos^2``.

    Exact where the residual is orthogonal to the reconstruction, as in orthogonal matching pursuit.

    Raises:
        ValueError: a ``tau`` that accepts every reconstruction (so nothing would ever be appended) or none.
    """
    cosine = cosine_threshold(paper_threshold, d_in)
    if not 0.0 < cosine < 1.0:
        raise ValueError(
            f"the paper's threshold {paper_threshold:g} at d_in {d_in} means cos(x, x_hat) < {cosine:.4g}: "
            + ("nothing" if cosine <= 0 else "everything")
            + f" would be appended; give a value between 0 and 2 / d_in = {2 / d_in:.3g}"
        )
    return 1.0 - cosine**2
