"""Say what a comparison of several models shows: the measures of similarity, layer matching, order and chance."""

import math
from collections.abc import Sequence

from itda_lightning.report.words.wording import show_estimate, show_number
from itda_lightning.results.difference import Direction
from itda_lightning.results.model_similarity import MeasuredSites, ModelSimilarity, Overlap, Reordered

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
}
DASH = "\N{EN DASH}"


def show_overlap(overlap: Overlap, part: str = "excess") -> str:
    """Return the excess over chance, or the index (``part="jaccard"``), with its error."""
    return show_estimate(getattr(overlap, part), overlap.error)


def show_accuracy(measured: MeasuredSites) -> str:
    """Return the accuracy of layer matching without self-pairs, with its error; a dash if no models can be matched."""
    return show_estimate(measured.accuracy, measured.accuracy_error) if math.isfinite(measured.accuracy) else DASH


def show_known(value: float) -> str:
    """Return the number, or a dash if there is none."""
    return show_number(value) if math.isfinite(value) else DASH


def noise_floor(results: ModelSimilarity) -> str:
    """Say how similar two fits of one layer are if only the order of tokens differs; "" if that was not measured."""
    values = [
        overlap.excess for entry in results.reordered if entry.hook_name is not None for overlap in entry.overlaps
    ]
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


def reordered_of(results: ModelSimilarity, model: str) -> Sequence[Reordered]:
    """Return the entry of the union of a model's layers; none if no other orders were fitted."""
    return [entry for entry in results.reordered if entry.model == model and entry.hook_name is None]


def ranking_summary(direction: Direction) -> str:
    """Say which atoms a ranking of differences is of."""
    common = sum(atom.common for atom in direction.atoms)
    words = (
        f"{show_number(len(direction.atoms))} of {show_number(direction.n_atoms)} atoms of {direction.owner} were read "
        f"by {direction.reader}, {show_number(common)} of them with a source that is an atom of both"
    )
    if direction.unaligned:
        words += f"; {show_number(direction.unaligned)} have no token of their own there"
    if direction.unusable:
        words += f"; {show_number(direction.unusable)} have no usable activation"
    return f"{words}."
