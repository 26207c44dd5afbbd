"""What the Jaccard index of two sets of sources would be by chance."""

from typing import NamedTuple

import torch

from itda_lightning.dictionary.sources import Sources
from itda_lightning.errors import InputError
from itda_lightning.measures.jaccard import common_and_either


class JaccardOverChance(NamedTuple):
    """A Jaccard index beside chance.

    Attributes:
        jaccard: the index.
        expected: its mean for two sets of the same sizes, each drawn at random.
        excess: ``jaccard - expected``.
    """

    jaccard: float
    expected: float
    excess: float


def jaccard_over_chance(a: Sources, b: Sources, universe: int) -> JaccardOverChance:
    """The Jaccard index and how far it is above what the two sizes alone give.

    Args:
        a, b: sources of two dictionaries.
        universe: how many sources could have become atoms: the distinct tokens that both fits saw.

    Raises:
        InputError: as ``jaccard``; a universe smaller than the union of the two.
    """
    common, either = common_and_either(a, b)
    if universe < len(either):
        raise InputError(
            f"a universe of {universe} cannot hold the {len(either)} sources of both: count all tokens of the fits"
        )
    value = len(common) / len(either)
    expected = expected_jaccard(len(a.keys()), len(b.keys()), universe)
    return JaccardOverChance(value, expected, value - expected)


def expected_jaccard(n1: int, n2: int, universe: int) -> float:
    """The mean Jaccard index of two sets of n1 and n2 sources, drawn independently without replacement from a universe.

    The number of common ones is hypergeometric, ``K ~ C(n1, k) C(N - n1, n2 - k) / C(N, n2)``, and the result is
    ``E[K / (n1 + n2 - K)]`` exactly, not the ratio of the means. Takes time and memory of min(n1, n2).

    Raises:
        InputError: an empty set, or a set larger than the universe.
    """
    if not 1 <= min(n1, n2) <= max(n1, n2) <= universe:
        raise InputError(f"sizes must be from 1 to the universe's {universe}, got {n1} and {n2}")
    k = torch.arange(max(0, n1 + n2 - universe), min(n1, n2) + 1, dtype=torch.float64)
    # From the ratio of one probability to that before: factorials of millions would leave few digits.
    before = k[:-1]
    ratios = (n1 - before) * (n2 - before) / ((before + 1) * (universe - n1 - n2 + before + 1))
    logarithms = torch.cat([torch.zeros(1, dtype=torch.float64), ratios.log().cumsum(0)])
    probabilities = logarithms.softmax(0)
    return float((probabilities * k / (n1 + n2 - k)).sum())
