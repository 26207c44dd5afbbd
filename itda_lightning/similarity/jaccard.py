"""The Jaccard index of two sets of sources (Section 5 of arXiv 2505.17769)."""

from itda_lightning.errors import InputError
from itda_lightning.sources import Sources


def jaccard(a: Sources, b: Sources) -> float:
    """``|A & B| / |A | B|`` of the sources of two dictionaries, in [0, 1].

    A source counts by its document and the characters of its token, so the two may come from different models. Sizes
    matter: compare dictionaries of equal size.

    Raises:
        InputError: sources of different datasets, or no source at all.
    """
    either = a.union(b)
    if not either:
        raise InputError("the Jaccard index of two empty sets of sources is not defined: give fitted dictionaries")
    return len(a.intersection(b)) / len(either)
