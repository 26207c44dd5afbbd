"""Relative representations (Moschella et al. 2023, arXiv 2209.15430)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from itda_lightning.errors import InputError
from itda_lightning.similarity.aligned import aligned


def relative_similarity(x: Float[Tensor, "n d1"], y: Float[Tensor, "m d2"], anchors: Int[Tensor, " anchors"]) -> float:
    """The mean cosine between the two relative representations of each token, in [-1, 1]; computed in float64.

    A token's relative representation is the vector of its cosines to the anchors in its own space, so the two spaces need
    not have the same dimension. Invariant to rotation and isotropic scale of either side.

    Args:
        x, y: (n, d1) and (n, d2) representations of the same n tokens.
        anchors: (m,) indices of the tokens that serve as anchors in both spaces.

    Raises:
        InputError: as ``aligned``; no anchors, anchors out of range, or an all-zero row, which has no direction.
    """
    x, y = aligned(x, y, min_rows=1)
    if not len(anchors) or int(anchors.min()) < 0 or int(anchors.max()) >= len(x):
        raise InputError(f"anchors must be indices of the {len(x)} tokens, got {anchors.tolist()[:5]}...")
    for name, value in (("x", x), ("y", y)):
        if not bool((value != 0).any(-1).all()):
            raise InputError(f"{name} has an all-zero row, which has no direction: leave that token out")
    relative = [unit @ unit[anchors].T for unit in (functional.normalize(x, dim=1), functional.normalize(y, dim=1))]
    return float(torch.nn.functional.cosine_similarity(relative[0], relative[1], dim=1).mean())
