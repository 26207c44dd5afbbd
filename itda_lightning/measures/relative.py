"""Relative representations (Moschella et al. 2023, arXiv 2209.15430)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.errors import InputError
from itda_lightning.measures.aligned import blocks, check_aligned, check_directions, directions


def relative_similarity(x: Float[Tensor, "n d1"], y: Float[Tensor, "m d2"], anchors: Int[Tensor, " anchors"]) -> float:
    """The mean cosine between the two relative representations of each token, in [-1, 1]; computed in float64.

    A token's relative representation is the vector of its cosines to the anchors in its own space, so the two spaces need
    not have the same dimension. Symmetric; invariant to rotation and isotropic scale of either side (not to
    translation: cosines are about the origin).

    Args:
        x, y: (n, d1) and (n, d2) representations of the same n tokens, of any float type.
        anchors: (m,) indices of the tokens that serve as anchors in both spaces.

    Raises:
        InputError: fewer than two anchors, anchors out of range; otherwise as ``RelativeSimilarity``.
    """
    check_aligned((x, y), min_rows=1)
    if len(anchors) and (int(anchors.min()) < 0 or int(anchors.max()) >= len(x)):
        raise InputError(f"anchors must be indices of the {len(x)} tokens, got {anchors.tolist()[:5]}...")
    running = RelativeSimilarity(x[anchors], y[anchors])
    running.add(x, y)
    return running.value()


class RelativeSimilarity:
    """``relative_similarity`` over batches of tokens; holds the anchors, a sum and a count.

    Attributes:
        n: tokens so far.
        total: the sum of their cosines.
    """

    def __init__(self, anchors_x: Float[Tensor, "anchors d1"], anchors_y: Float[Tensor, "m d2"]) -> None:
        """The activations of the same tokens in both spaces.

        Raises:
            InputError: fewer than two, different numbers of them, values that are not finite, or an all-zero row.
        """
        check_aligned((anchors_x, anchors_y))
        if len(anchors_x) < 2:
            raise InputError(
                f"anchors must be at least 2, got {len(anchors_x)}: with a single one the cosine of two tokens is 1 or -1"
            )
        check_directions(anchors_x, "x, among its anchors,")
        check_directions(anchors_y, "y, among its anchors,")
        self._anchors = (directions(anchors_x), directions(anchors_y))
        self.n = 0
        self.total = 0.0

    def add(self, x: Float[Tensor, "batch d1"], y: Float[Tensor, "m d2"]) -> Float[Tensor, " batch"]:
        """Add a batch; returns the cosine of each of its tokens, float64.

        Raises:
            InputError: as ``check_aligned``; an all-zero row, which has no direction.
        """
        check_aligned((x, y), [anchors.shape[1] for anchors in self._anchors])
        check_directions(x, "x")
        check_directions(y, "y")
        cosines = [self._cosines(*block) for block in blocks(x, y)]
        result = torch.cat(cosines) if cosines else x.new_zeros(0, dtype=torch.float64)
        self.n += len(result)
        self.total += float(result.sum())
        return result

    def value(self) -> float:
        """The mean over all tokens so far. Raises InputError where there are none."""
        if not self.n:
            raise InputError("0 tokens are too few: give at least 1")
        return self.total / self.n

    def _cosines(self, x: Float[Tensor, "block d1"], y: Float[Tensor, "block d2"]) -> Float[Tensor, " block"]:
        """A token that is orthogonal to all anchors of one side has no relative direction there: 0."""
        relative = [directions(z) @ anchors.T for z, anchors in zip((x, y), self._anchors, strict=True)]
        return torch.nn.functional.cosine_similarity(relative[0], relative[1], dim=1, eps=1e-30)
