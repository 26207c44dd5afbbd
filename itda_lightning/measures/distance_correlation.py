"""Distance correlation (Székely, Rizzo, Bakirov 2007, Annals of Statistics 35)."""

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.measures.distances import distances_of_both, pair_sums


def distance_correlation(x: Float[Tensor, "n d1"], y: Float[Tensor, "m d2"]) -> float:
    """Return ``sqrt(dCov^2 / sqrt(dVar^2(x) dVar^2(y)))`` of Euclidean distances, in [0, 1]; in float64.

    ``dCov^2`` is the mean over all pairs of tokens of the product of the two doubly centred matrices of distances
    (Definition 4), as ReSi uses it (Klabunde et al. 2025, ICLR). Symmetric; invariant to translation, rotation and
    isotropic scale of either side. Takes 24 n^2 bytes, so it is for a sample of tokens.

    Args:
        x, y: (n, d1) and (n, d2) representations of the same n tokens, any float dtype.

    Raises:
        InputError: as ``check_aligned``; fewer than two tokens, or a side on which all tokens are equal.

    Example:
        >>> import torch
        >>> from itda_lightning.measures import distance_correlation
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -2.0]])
        >>> round(distance_correlation(x, 3 * x.flip(1) + 5), 6)  # rotated, scaled and moved
        1.0
    """
    a, b = distances_of_both(x, y, min_rows=2)
    once = torch.ones(1, len(a), dtype=torch.float64, device=a.device)
    covariance, of_x, of_y = (distance_covariance(*pair, once) for pair in ((a, b), (a, a), (b, b)))
    return float(correlation(covariance, of_x, of_y))


def distance_covariance(
    a: Float[Tensor, "n n"], b: Float[Tensor, "n n"], times: Float[Tensor, "draws n"]
) -> Float[Tensor, " draws"]:
    """Return ``dCov^2`` of two matrices of distances for each draw, in which token i comes ``times[:, i]`` times."""
    n = times.sum(1)
    means_a, means_b = (times @ matrix / n[:, None] for matrix in (a, b))
    grand = (times * means_a).sum(1) * (times * means_b).sum(1) / n**2
    return pair_sums(a * b, times) / n**2 - 2 * (times * means_a * means_b).sum(1) / n + grand


def correlation(
    covariance: Float[Tensor, " draws"], of_x: Float[Tensor, " draws"], of_y: Float[Tensor, " draws"]
) -> Float[Tensor, " draws"]:
    """Return the distance correlation, given ``dCov^2`` of x and y, of x with itself and of y with itself."""
    return (covariance.clamp(min=0) / (of_x.sqrt() * of_y.sqrt())).sqrt().clamp(max=1)


def distance_correlation_null(a: Float[Tensor, "n n"], b: Float[Tensor, "n n"]) -> float:
    """Return the root of the mean squared distance correlation over all permutations of the rows of y.

    For doubly centred matrices the mean over permutations of ``sum_ij A_ij B_ij`` is ``tr A tr B / (n - 1)``.
    """
    n = len(a)
    once = torch.ones(1, n, dtype=torch.float64, device=a.device)
    # The trace of a doubly centred matrix of distances: n times minus its mean.
    expected = a.mean() * b.mean() / (n - 1)
    return float(correlation(expected[None], distance_covariance(a, a, once), distance_covariance(b, b, once)))
