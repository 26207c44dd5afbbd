"""Layer matching (Kornblith et al. 2019; Eq. 9 of arXiv 2505.17769): is the most similar layer of a model the same layer?"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def matching_accuracy(
    values: Float[Tensor, "sites sites"], sites_of_models: Sequence[range], self_pairs: bool = False
) -> float:
    """The share of sites i of a model whose largest value among the sites of another model is at the same place i.

    Over all ordered pairs of different models that have as many sites. Of equal values the first counts as the largest.

    Args:
        values: row i compares site i with all sites.
        sites_of_models: the sites of each model, which stand one after another.
        self_pairs: also pair every model with itself, as the paper's formula does; those are always right.

    Returns:
        nan where no two different models have as many sites.
    """
    right, different = [], False
    for a, first in enumerate(sites_of_models):
        for b, second in enumerate(sites_of_models):
            if len(first) != len(second) or (a == b and not self_pairs):
                continue
            different |= a != b
            block = values[first.start : first.stop, second.start : second.stop]
            right.append(block.argmax(1) == torch.arange(len(first)))
    return float(torch.cat(right).double().mean()) if different else float("nan")
