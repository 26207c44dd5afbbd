"""Aligned cosine similarity (Hamilton, Leskovec, Jurafsky 2016, arXiv 1605.09096)."""

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.errors import InputError
from itda_lightning.measures.aligned import check_aligned
from itda_lightning.measures.permuted import DRAWS


def aligned_cosine(x: Float[Tensor, "n d1"], y: Float[Tensor, "m d2"]) -> float:
    """Return the mean cosine of each token's two centred activations after the best rotation, in [-1, 1]; in float64.

    The rotation is that of orthogonal Procrustes over the same tokens, the columns are centred, as Klabunde et al. 2023
    (arXiv 2305.06329) and their comparison of language models do. Unlike Procrustes every token counts the same,
    whatever its norm. Symmetric; invariant to translation, rotation and isotropic scale of either side. The narrower of
    two widths counts as padded with zeros. A token at the mean of all counts as 0.

    Args:
        x, y: (n, d1) and (n, d2) representations of the same n tokens, any float dtype.

    Raises:
        InputError: as ``check_aligned``; no more tokens than dimensions, which a rotation could fit whatever they are.

    Example:
        >>> import torch
        >>> from itda_lightning.measures import aligned_cosine
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -2.0]])
        >>> round(aligned_cosine(x, 3 * x.flip(1) + 5), 6)  # rotated, scaled and moved
        1.0
    """
    check_aligned((x, y))
    check_more_tokens(len(x), max(x.shape[1], y.shape[1]))
    return float(aligned_cosines(x, y).mean())


def aligned_cosines(x: Float[Tensor, "n d1"], y: Float[Tensor, "m d2"]) -> Float[Tensor, " n"]:
    """Return the (n,) cosines whose mean is ``aligned_cosine``, of tensors that were checked."""
    x, y = (z.double() - z.double().mean(0) for z in (x, y))
    x, y = (z / z.abs().max().clamp(min=1e-300) for z in (x, y))
    left, _, right = torch.linalg.svd(x.T @ y, full_matrices=False)
    products = ((x @ left) * (y @ right.T)).sum(1)
    norms = torch.linalg.vector_norm(x, dim=1) * torch.linalg.vector_norm(y, dim=1)
    return torch.where(norms > 0, products / norms.clamp(min=1e-300), 0.0)


def aligned_cosine_null(x: Float[Tensor, "n d1"], y: Float[Tensor, "m d2"]) -> float:
    """Return the mean of ``aligned_cosine`` over random permutations of the rows of y."""
    orders = (torch.randperm(len(y), generator=torch.Generator().manual_seed(draw)) for draw in range(DRAWS))
    return sum(float(aligned_cosines(x, y[order]).mean()) for order in orders) / DRAWS


def check_more_tokens(n: int, d: int) -> None:
    """Raise InputError unless there are more tokens than dimensions."""
    if n <= d:
        raise InputError(
            f"{n} tokens are too few to align {d} dimensions, as a rotation would fit them whatever they are: "
            "give more tokens"
        )
