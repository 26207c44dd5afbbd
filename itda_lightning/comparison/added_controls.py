"""The controls of a comparison's entries: which are added, and their names in plain English."""

from collections.abc import Iterator, Sequence
from dataclasses import astuple, replace

from itda_lightning.comparison.comparison_settings import EntrySettings, KMeansSettings, PCASettings, RandomSettings
from itda_lightning.results.comparison import Row


def controls_of(entry: EntrySettings, row: Row, wanted: Sequence[str]) -> Iterator[EntrySettings]:
    """Yield the controls of the ``wanted`` kinds: as many atoms as an ITDA has, as many components as its codes use.

    Of a pruned ITDA all have its mean L0: atoms are pruned to it, the components are as many, rounded. An SAE trained
    here is trained again, its decoder frozen at random.
    """
    if row.kind == "itda" and row.encoding is not None:
        k, pursuit, nonnegative, centred, least_gain = astuple(row.encoding)
        tokens = None if entry.fit is None else entry.fit.tokens
        l0 = round(row.value("l0"), 2) if least_gain > 0 else None
        if "random" in wanted:
            drawn = RandomSettings(row.width, k, pursuit, nonnegative, centred, tokens, l0=l0)
            yield EntrySettings(counted(row.width, "random atom"), random=drawn)
        if "pca" in wanted:
            components = k if l0 is None else max(round(l0), 1)
            yield EntrySettings(counted(components, "principal component"), pca=PCASettings(components, tokens))
        if "kmeans" in wanted:
            centroids = KMeansSettings(row.width, k, pursuit, nonnegative, centred, tokens, l0=l0)
            yield EntrySettings(counted(row.width, "k-means centroid"), kmeans=centroids)
    training = entry.train
    if "frozen" in wanted and training is not None and training.architecture != "matching_pursuit":
        yield EntrySettings(f"{entry.name}, frozen decoder", train=replace(training, decoder="frozen", start=None))


def counted(number: int, noun: str) -> str:
    """Return a number of things in words, such as "4,096 random atoms"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def unused_name(name: str, owner: str, names: set[str]) -> str:
    """Return a control's name that no entry has: alone, with the entry whose control it is, or numbered."""
    candidate, number = name, 1
    while candidate in names:
        candidate = f"{name}, for {owner}" if number == 1 else f"{name}, for {owner} ({number})"
        number += 1
    return candidate
