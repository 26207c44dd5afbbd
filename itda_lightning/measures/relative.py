"""Relative representations (Moschella et al. 2023, arXiv 2209.15430)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.errors import InputError
from itda_lightning.machine.checks import check_at_least
from itda_lightning.measures.aligned import blocks, check_aligned, check_directions, check_indices, directions


def relative_similarity(x: Float[Tensor, "n d1"], y: Float[Tensor, "m d2"], anchors: Int[Tensor, " anchors"]) -> float:
    """Return the mean cosine between the two relative representations of each token, in [-1, 1]; in float64.

    The relative representation of a token is the vector of its cosines with the anchors in its own space, so the two
    spaces may differ in dimension. Symmetric; invariant to rotation and isotropic scale of either side (not to
    translation: cosines are about the origin).

    Args:
        x, y: (n, d1) and (n, d2) representations of the same n tokens, any float dtype.
        anchors: (m,) indices of the tokens that are anchors in both spaces.

    Raises:
        InputError: fewer than two anchors, anchors out of range; otherwise as ``RelativeSimilarity``.

    Example:
        >>> import torch
        >>> import itda_lightning as il
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, -1.0]])
        >>> round(il.relative_similarity(x, 3 * x.flip(1), anchors=torch.tensor([0, 2])), 6)  # rotated and scaled
        1.0
    """
    check_aligned((x, y), min_rows=1)
    if len(anchors):
        check_indices("anchors", anchors, len(x))
    similarity = RelativeSimilarity(x[anchors], y[anchors])
    similarity.update(x, y)
    return similarity.compute()


class RelativeSimilarity:
    """Accumulator of ``relative_similarity`` over batches of tokens; holds the anchors, a sum and a count.

    Attributes:
        n: tokens so far.
    """

    def __init__(self, anchors_x: Float[Tensor, "anchors d1"], anchors_y: Float[Tensor, "m d2"]) -> None:
        """Take the activations of the anchors, the same tokens in both spaces.

        Raises InputError as ``check_aligned``, and for fewer than two anchors or an all-zero row.
        """
        check_aligned((anchors_x, anchors_y))
        check_at_least(2, {"anchors": len(anchors_x)}, "with one anchor the cosine of two tokens is 1 or -1")
        check_directions(anchors_x, anchors_y, ", among its anchors,")
        self._anchors = directions(anchors_x), directions(anchors_y)
        self.n, self._total = 0, 0.0
        self._sums = [torch.zeros(len(side), dtype=torch.float64, device=side.device) for side in self._anchors]

    def update(self, x: Float[Tensor, "batch d1"], y: Float[Tensor, "m d2"]) -> None:
        """Add a batch of tokens. Raises InputError as ``check_aligned``, and for an all-zero row."""
        check_aligned((x, y), [anchors.shape[1] for anchors in self._anchors])
        check_directions(x, y)
        if len(x):
            for first, second in blocks(x, y):
                relative = [
                    unit_relative(z, anchors) for z, anchors in zip((first, second), self._anchors, strict=True)
                ]
                self._total += float((relative[0] * relative[1]).sum())
                for total, side in zip(self._sums, relative, strict=True):
                    total += side.sum(0)
            self.n += len(x)

    def compute(self) -> float:
        """Return the mean over all tokens so far. Raises InputError if there are none."""
        if not self.n:
            raise InputError("0 tokens are too few: give at least 1")
        return self._total / self.n

    def null(self) -> float:
        """Return the mean of ``compute`` over all pairings of tokens and of anchors; see ``relative_null``.

        Raises InputError if there are no tokens.
        """
        self.compute()
        first, second = (total / self.n for total in self._sums)
        return relative_null(first, second)


def unit_relative(x: Float[Tensor, "block d"], anchors: Float[Tensor, "anchors d"]) -> Float[Tensor, "block anchors"]:
    """Return the relative representations scaled to norm one; of a token that is orthogonal to all anchors, zeros."""
    return torch.nn.functional.normalize(directions(x) @ anchors.T, dim=1, eps=1e-30)


def relative_null(mean_x: Float[Tensor, " anchors"], mean_y: Float[Tensor, " anchors"]) -> float:
    """Return the mean similarity when tokens are permuted, and anchors among the anchors, from mean unit vectors.

    Anchors stay anchors, where of permuted rows of y other tokens would be. Permuted tokens leave the product of the
    two mean vectors, permuted anchors that of their sums over the anchors, divided by their number; both exactly.
    """
    return float(mean_x.sum() * mean_y.sum()) / len(mean_x)
