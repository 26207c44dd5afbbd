"""Say what a comparison of several models shows: the measures of similarity, layer matching, order and chance."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from itda_lightning.report.words.wording import show_estimate, show_number
from itda_lightning.results.difference import Direction
from itda_lightning.results.model_similarity import MeasuredSites, ModelSimilarity, Overlap, Site

# Key -> (name, meaning).
SIMILARITIES = {
    "jaccard": (
        "Jaccard index over chance",
        "Sources in both dictionaries as a share of the sources in either, less that share for random sources.",
    ),
    "weighted_jaccard": (
        "Jaccard index by use",
        "The Jaccard index with every source weighted by its share of all uses by held-out tokens (Ruzicka's); chance "
        "is not subtracted.",
    ),
    "cka": (
        "Linear CKA",
        "Alignment of the linear kernels of centred activations; biased upwards when there are few tokens.",
    ),
    "debiased_cka": ("Debiased linear CKA", "CKA with unbiased estimates: about 0 for unrelated activations."),
    "svcca": ("SVCCA", "Mean canonical correlation of the leading directions with 99% of the variance of each layer."),
    "pwcca": (
        "PWCCA",
        "Mean canonical correlation, each direction weighted by how much of the row's layer it accounts for.",
    ),
    "regression": (
        "Linear regression",
        "R² of the column's layer predicted from the row's layer, on the tokens it is fitted on.",
    ),
    "procrustes": ("Orthogonal Procrustes", "Cosine of centred activations after the best rotation."),
    "relative": ("Relative representations", "Mean cosine of the vectors of cosines with the same anchor tokens."),
    "neighbours": (
        "Mutual nearest neighbours",
        "Share of a token's nearest tokens in one layer that are also its nearest in the other.",
    ),
    "angular_procrustes": (
        "Angular Procrustes",
        "1 less the angle of centred activations after the best rotation, as a share of a right angle; a metric.",
    ),
    "aligned_cosine": (
        "Aligned cosine",
        "Mean cosine of a token's two centred activations after the best rotation, of a sample of tokens.",
    ),
    "distance_correlation": (
        "Distance correlation",
        "Correlation of the doubly centred distances of all pairs of a sample of tokens.",
    ),
    "rsa": ("RSA", "Spearman's rank correlation of the distances of all pairs of a sample of tokens."),
    "second_order_cosine": (
        "Second-order cosine",
        "Mean cosine of a token's cosines with its nearest tokens of either layer, in the one and in the other, of a "
        "sample of tokens.",
    ),
}


class Means(NamedTuple):
    """Means of a measure over all pairs of layers of different models, or of different layers of a single model."""

    value: float
    null: float
    excess: float


def means_of(measured: MeasuredSites, sites: Sequence[Site]) -> Means:
    """Return the mean value, what is expected of permuted tokens, and the excess; nan where it was not measured."""
    single = len({site.model for site in sites}) == 1
    pairs = [
        (i, j)
        for i, first in enumerate(sites)
        for j, second in enumerate(sites)
        if i != j and (single or first.model != second.model)
    ]
    matrices = (measured.values, measured.nulls, measured.excesses)
    return Means(*(sum(m[i][j] for i, j in pairs) / len(pairs) if m and pairs else math.nan for m in matrices))


def null_line(measured: MeasuredSites, sites: Sequence[Site]) -> str:
    """Say what is expected of permuted tokens, and what is left over; "" if that was not measured."""
    mean = means_of(measured, sites)
    if not math.isfinite(mean.null) or measured.measure == "jaccard":
        return ""
    return (
        f"Tokens of one layer permuted against the other's give {show_number(mean.null)} on average where the pairs "
        f"themselves give {show_number(mean.value)}: an excess of {show_number(mean.excess)}, of 1 for identity."
    )


def show_overlap(overlap: Overlap, part: str = "excess") -> str:
    """Return the excess over chance, or the index (``part="jaccard"``), with its error."""
    return show_estimate(getattr(overlap, part), overlap.error)


def noise_floor(results: ModelSimilarity) -> str:
    """Say how similar two fits of one layer are if only the order of tokens differs; "" if that was not measured."""
    values = [overlap.excess for entry in results.reordered if entry.hook_name for overlap in entry.overlaps]
    if not values:
        return ""
    low, high, mean = (show_number(value) for value in (min(values), max(values), sum(values) / len(values)))
    return (
        f"Noise floor: two fits of the same layer on the same tokens in different orders have an excess over chance of "
        f"{low} to {high} ({mean} on average). The fits compared here read the tokens in one order, so they also "
        "share what order decides."
    )


def size_line(results: ModelSimilarity) -> str:
    """Say how many atoms are compared, and out of how many tokens; "" without dictionaries."""
    if not results.atoms:
        return ""
    return (
        f"Dictionaries are compared by their first {results.atoms:,} atoms, the size of the smallest, out of "
        f"{results.universe:,} tokens that all fits read. Two random sets of that size have a Jaccard index of "
        f"{show_number(results.chance)}."
    )


def ranking_summary(direction: Direction) -> str:
    """Say which atoms a ranking of differences is of."""
    read, n_atoms = show_number(len(direction.atoms)), show_number(direction.n_atoms)
    common = show_number(sum(atom.common for atom in direction.atoms))
    words = f"{read} of {n_atoms} atoms of {direction.owner} were read by {direction.reader}, "
    words += f"{common} of them with a source that is an atom of both"
    for count, what in ((direction.unaligned, "token of their own there"), (direction.unusable, "usable activation")):
        words += f"; {show_number(count)} have no {what}" if count else ""
    return f"{words}."
