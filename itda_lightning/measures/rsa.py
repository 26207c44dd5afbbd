"""Representational similarity analysis (Kriegeskorte, Mur, Bandettini 2008, Frontiers in Systems Neuroscience 2)."""

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.measures.distances import distances_of_both, pair_sums


def rsa(x: Float[Tensor, "n d1"], y: Float[Tensor, "m d2"]) -> float:
    """Return Spearman's rank correlation of the Euclidean distances of all pairs of tokens, in [-1, 1]; in float64.

    Kriegeskorte et al. compare distances by their ranks. Theirs are 1 - Pearson's correlation of two tokens, which a
    rotation changes; ReSi (Klabunde et al. 2025, ICLR) also has Euclidean ones. Symmetric; invariant to translation,
    rotation and isotropic scale of either side, and to any increasing function of distances. 0 on average over
    permutations of the rows. Takes 24 n^2 bytes, so it is for a sample of tokens.

    Args:
        x, y: (n, d1) and (n, d2) representations of the same n tokens, any float dtype.

    Raises:
        InputError: as ``check_aligned``; fewer than three tokens, or a side on which all tokens are equal.

    Example:
        >>> import torch
        >>> from itda_lightning.measures import rsa
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -2.0]])
        >>> round(rsa(x, 3 * x.flip(1) + 5), 6)  # rotated, scaled and moved
        1.0
    """
    a, b = (centred_ranks(matrix) for matrix in distances_of_both(x, y, min_rows=3))
    return float(rank_correlation(a, b, torch.ones(1, len(a), dtype=torch.float64, device=a.device)))


def centred_ranks(matrix: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Return the ranks of the entries of a symmetric matrix off its diagonal less their mean; equal ones share theirs.

    Distances that differ by less than 1e-12 of the largest are equal. The diagonal is 0.
    """
    n = len(matrix)
    i, j = torch.triu_indices(n, n, offset=1, device=matrix.device)
    steps = (matrix[i, j] / matrix.max() * 2**40).round_()
    _, inverse, counts = steps.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    ranks = torch.zeros_like(matrix)
    ranks[i, j] = ranks[j, i] = (last - (counts - 1) / 2 - (len(i) + 1) / 2)[inverse]
    return ranks


def rank_correlation(
    a: Float[Tensor, "n n"], b: Float[Tensor, "n n"], times: Float[Tensor, "draws n"]
) -> Float[Tensor, " draws"]:
    """Return Pearson's correlation of two matrices of centred ranks over the pairs of tokens of each draw.

    Token i comes ``times[:, i]`` times; two copies of one token are no pair. Ranks stay those of all tokens.
    """
    pairs = times.sum(1) ** 2 - times.square().sum(1)
    mean_a, mean_b = (pair_sums(matrix, times) / pairs for matrix in (a, b))
    of_both, of_a, of_b = (pair_sums(one * other, times) / pairs for one, other in ((a, b), (a, a), (b, b)))
    variances = (of_a - mean_a**2) * (of_b - mean_b**2)
    return ((of_both - mean_a * mean_b) / variances.sqrt()).clamp(-1, 1)
