"""The Jaccard index of two sets of sources (Section 5 of arXiv 2505.17769), plain and weighted by use."""

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.dictionary.sources import Sources
from itda_lightning.errors import InputError

Key = tuple[int, int, int]


def jaccard(a: Sources, b: Sources) -> float:
    """``|A & B| / |A | B|`` of the sources of two dictionaries, in [0, 1] (Jaccard 1912).

    A source counts by its document and the characters of its token, so the two may come from different models. Sizes
    matter: compare dictionaries of equal size, or see ``jaccard_over_chance``.

    Raises:
        InputError: sources of different datasets, or a side without any source whose document is known.
    """
    common, either = common_and_either(a, b)
    return len(common) / len(either)


def weighted_jaccard(a: Sources, b: Sources, use_a: Float[Tensor, " n"], use_b: Float[Tensor, " m"]) -> float:
    """``sum min(u, v) / sum max(u, v)`` over the sources of either side, in [0, 1] (Ruzicka 1958).

    Symmetric; with all weights equal it is ``jaccard``. Where the two totals differ, part of the difference is that: give
    shares of each total to leave it out.

    Args:
        a, b: sources of the atoms of two dictionaries.
        use_a, use_b: (n,) and (m,) how much each atom is used on the same tokens, not negative: how often it fires, or the sum
            of its absolute coefficients. Sums over batches are all that is needed. A source that comes twice counts with
            the sum of its weights, one that a side lacks with 0.

    Raises:
        InputError: as ``jaccard``; not one weight an atom, weights that are negative or not finite, or none above 0.
    """
    # In order, so that the sums have the same bits whichever side comes first.
    keys = sorted(common_and_either(a, b)[1])
    weights = [_weights(name, sources, use) for name, sources, use in (("a", a, use_a), ("b", b, use_b))]
    u, v = (torch.tensor([side.get(key, 0.0) for key in keys], dtype=torch.float64) for side in weights)
    return float(torch.minimum(u, v).sum() / torch.maximum(u, v).sum())


def common_and_either(a: Sources, b: Sources) -> tuple[set[Key], set[Key]]:
    """Keys that both have and keys that either has. Raises InputError as ``jaccard``."""
    common = a.intersection(b)
    for name, sources in (("a", a), ("b", b)):
        if not sources.keys():
            raise InputError(
                f"{name} has no source with a known document among {len(sources)}: the Jaccard index of an empty set of "
                "sources is not defined; give fitted dictionaries"
            )
    return common, a.union(b)


def _weights(name: str, sources: Sources, use: Tensor) -> dict[Key, float]:
    """The weight of each key."""
    if len(use) != len(sources):
        raise InputError(f"use_{name} has {len(use)} weights for {len(sources)} sources: give one an atom")
    if not bool(torch.isfinite(use).all()) or bool((use < 0).any()):
        raise InputError(f"use_{name} has weights that are negative or not finite: count firings or add |coefficients|")
    weights = dict.fromkeys(sources.keys(), 0.0)
    for source, weight in zip(sources, use.tolist(), strict=True):
        if source.document >= 0:
            weights[source.document, source.start, source.end] += weight
    if not any(weights.values()):
        raise InputError(f"no atom of {name} is used: measure use on more tokens")
    return weights
