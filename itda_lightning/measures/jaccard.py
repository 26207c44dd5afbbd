"""The Jaccard index of two sets of sources (Section 5 of arXiv 2505.17769): plain, weighted by use, and over chance."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.dictionary.sources import Sources
from itda_lightning.errors import InputError

Key = tuple[int, int, int]


def jaccard(a: Sources, b: Sources) -> float:
    """Return ``|A & B| / |A | B|`` of the sources of two dictionaries, in [0, 1] (Jaccard 1912).

    A source is its document and the characters of its token, so the dictionaries may come from different models. The
    index depends on sizes: compare dictionaries of equal size, or see ``jaccard_over_chance``. Indices are comparable
    only if the fits read the tokens in the same order.

    Raises:
        InputError: sources of different datasets, or a side without any source whose document is known.

    Example:
        >>> import torch
        >>> import itda_lightning as il
        >>> # columns: document, row, position, token, start and end character
        >>> tokens = torch.tensor([[0, 0, p, 7, p, p + 1] for p in range(4)])
        >>> a, b = il.Sources(tokens[:3], "dataset"), il.Sources(tokens[1:], "dataset")
        >>> il.jaccard(a, b)
        0.5
    """
    return len(a.intersection(b)) / len(_either(a, b))


def weighted_jaccard(a: Sources, b: Sources, use_a: Float[Tensor, " n"], use_b: Float[Tensor, " m"]) -> float:
    """Return ``sum min(u, v) / sum max(u, v)`` over the sources of either side, in [0, 1] (Ruzicka 1958).

    Symmetric; equal to ``jaccard`` if all weights are equal. A difference of the two totals counts as a difference:
    pass shares of each total to leave it out.

    Args:
        a, b: sources of the atoms of two dictionaries.
        use_a, use_b: (n,) and (m,) non-negative use of each atom on the same tokens: how often it fires, or the sum of
            its absolute coefficients, summed over batches. Duplicate sources count with the sum of their weights,
            missing ones with 0.

    Raises:
        InputError: as ``jaccard``; not one weight per atom, weights that are negative or not finite, or none above 0.

    Example:
        >>> import torch
        >>> from itda_lightning import Sources
        >>> from itda_lightning.measures import weighted_jaccard
        >>> # columns: document, row, position, token, start and end character
        >>> tokens = torch.tensor([[0, 0, p, 7, p, p + 1] for p in range(4)])
        >>> a, b = Sources(tokens[:2], "dataset"), Sources(tokens[1:3], "dataset")
        >>> weighted_jaccard(a, b, torch.tensor([1.0, 3.0]), torch.tensor([2.0, 1.0]))
        0.4
    """
    # Sorted, so that the sums have the same bits whichever side comes first.
    keys = sorted(_either(a, b))
    weights = _weights("a", a, use_a), _weights("b", b, use_b)
    u, v = (torch.tensor([side.get(key, 0.0) for key in keys], dtype=torch.float64) for side in weights)
    return float(torch.minimum(u, v).sum() / torch.maximum(u, v).sum())


class JaccardOverChance(NamedTuple):
    """A Jaccard index and its chance level.

    Attributes:
        jaccard: the index.
        expected: its mean for two random sets of the same sizes.
        excess: ``jaccard - expected``.
    """

    jaccard: float
    expected: float
    excess: float


def jaccard_over_chance(a: Sources, b: Sources, universe: int) -> JaccardOverChance:
    """Return the Jaccard index and its excess over what two random sets of the same sizes have in common.

    Args:
        a, b: sources of two dictionaries.
        universe: number of sources that could have become atoms: the distinct tokens that both fits read.

    Raises:
        InputError: as ``jaccard``; a universe smaller than the union of the two.

    Example:
        >>> import torch
        >>> from itda_lightning import Sources
        >>> from itda_lightning.measures import jaccard_over_chance
        >>> # columns: document, row, position, token, start and end character
        >>> tokens = torch.tensor([[0, 0, p, 7, p, p + 1] for p in range(4)])
        >>> a, b = Sources(tokens[:2], "dataset"), Sources(tokens[1:3], "dataset")
        >>> round(jaccard_over_chance(a, b, universe=100).excess, 3)
        0.32
    """
    value, either = jaccard(a, b), len(a.union(b))
    if universe < either:
        raise InputError(
            f"a universe of {universe} cannot hold the {either} sources of both: count all tokens of the fits"
        )
    expected = expected_jaccard(len(a.keys()), len(b.keys()), universe)
    return JaccardOverChance(value, expected, value - expected)


def expected_jaccard(n1: int, n2: int, universe: int) -> float:
    """Return the mean Jaccard index of two sets of n1 and n2 sources, each drawn without replacement from a universe.

    The number of common sources is hypergeometric, ``K ~ C(n1, k) C(N - n1, n2 - k) / C(N, n2)``, and the result is
    exactly ``E[K / (n1 + n2 - K)]``, not the ratio of the means. Time and memory grow with min(n1, n2).

    Raises:
        InputError: an empty set, or a set larger than the universe.

    Example:
        >>> from itda_lightning.measures import expected_jaccard
        >>> round(expected_jaccard(1, 1, universe=4), 6)  # the same source once in four draws
        0.25
    """
    if not 1 <= min(n1, n2) <= max(n1, n2) <= universe:
        raise InputError(f"sizes must be from 1 to the universe's {universe}, got {n1} and {n2}")
    k = torch.arange(max(0, n1 + n2 - universe), min(n1, n2) + 1, dtype=torch.float64)
    # Products of ratios of successive probabilities: factorials of millions would leave few digits.
    before = k[:-1]
    ratios = (n1 - before) * (n2 - before) / ((before + 1) * (universe - n1 - n2 + before + 1))
    probabilities = torch.cat([torch.zeros(1, dtype=torch.float64), ratios.log().cumsum(0)]).softmax(0)
    return float((probabilities * k / (n1 + n2 - k)).sum())


def expected_weighted_jaccard(u: Float[Tensor, " n"], v: Float[Tensor, " m"], universe: int) -> float:
    """Return the weighted Jaccard index of two sets of sources whose places in the universe are drawn at random.

    The sum of minima M has the mean ``sum_ij min(u_i, v_j) / universe``; the result is ``E M / (|u| + |v| - E M)``,
    which differs from the mean of the ratios by the variance of M. Weights are not negative.

    Example:
        >>> import torch
        >>> from itda_lightning.measures import expected_weighted_jaccard
        >>> round(expected_weighted_jaccard(torch.ones(3), torch.ones(3), universe=10), 3)  # .9 in common on average
        0.176
    """
    u, v = u.double(), v.double().sort().values
    above = torch.searchsorted(v, u)
    below = torch.cat([v.new_zeros(1), v.cumsum(0)])
    common = float((below[above] + (len(v) - above) * u).sum()) / universe
    return common / (float(u.sum() + v.sum()) - common)


def _either(a: Sources, b: Sources) -> set[Key]:
    """Return the keys that either has. Raises InputError as ``jaccard``."""
    either = a.union(b)
    for name, sources in (("a", a), ("b", b)):
        if not sources.keys():
            raise InputError(
                f"{name} has no source with a known document among {len(sources)}: the Jaccard index of an empty set "
                "of sources is not defined; give fitted dictionaries"
            )
    return either


def _weights(name: str, sources: Sources, use: Tensor) -> dict[Key, float]:
    """Return the weight of each key."""
    if len(use) != len(sources):
        raise InputError(f"use_{name} has {len(use)} weights for {len(sources)} sources: give one per atom")
    if not bool(torch.isfinite(use).all()) or bool((use < 0).any()):
        raise InputError(f"use_{name} has weights that are negative or not finite: count firings or add |coefficients|")
    weights = dict.fromkeys(sources.keys(), 0.0)
    for source, weight in zip(sources, use.tolist(), strict=True):
        if source.document >= 0:
            weights[source.document, source.start, source.end] += weight
    if not any(weights.values()):
        raise InputError(f"no atom of {name} is used: measure use on more tokens")
    return weights
