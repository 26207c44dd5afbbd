"""The measures of models and what else a comparison of models says, in words."""

import math
from collections.abc import Sequence

from itda_lightning.report.words.wording import show_estimate, show_number
from itda_lightning.results.model_similarity import MeasuredSites, ModelSimilarity, Overlap, Reordered

# Key -> (name, what it is).
MEASURES = {
    "jaccard": (
        "Jaccard index over chance",
        "Sources that both dictionaries have, as a share of those that either has, less that share for random sources.",
    ),
    "weighted_jaccard": (
        "Jaccard index by use",
        "As the Jaccard index, every source with its share of all uses by held-out tokens (Ruzicka's); chance is not taken off.",
    ),
    "cka": (
        "Linear CKA",
        "Alignment of the linear kernels of centred activations; large by itself where tokens are few.",
    ),
    "debiased_cka": ("Debiased linear CKA", "CKA with unbiased estimates: about 0 for unrelated activations."),
    "svcca": ("SVCCA", "Mean canonical correlation of the leading directions with 99% of the variance of each layer."),
    "pwcca": (
        "PWCCA",
        "Mean canonical correlation, weighted by how much of the layer of the row each direction accounts for.",
    ),
    "regression": (
        "Linear regression",
        "R² of the layer of the column predicted from that of the row, on the tokens it is fitted on.",
    ),
    "procrustes": ("Orthogonal Procrustes", "Cosine of centred activations after the best rotation."),
    "relative": ("Relative representations", "Mean cosine of the vectors of cosines with the same anchor tokens."),
    "neighbours": (
        "Mutual nearest neighbours",
        "Share of the tokens nearest to a token in one layer that are nearest to it in the other.",
    ),
}
DASH = "\N{EN DASH}"


def measure_words(measure: str) -> tuple[str, str]:
    """The name of a measure and what it is."""
    return MEASURES[measure]


def show_overlap(overlap: Overlap, part: str = "excess") -> str:
    """The excess over chance or the index, with its error."""
    return show_estimate(getattr(overlap, part), overlap.error)


def show_accuracy(measured: MeasuredSites) -> str:
    """The accuracy of layer matching without self-pairs, with its error; a dash where no models can be matched."""
    if not math.isfinite(measured.accuracy):
        return DASH
    return show_estimate(measured.accuracy, measured.accuracy_error)


def show_known(value: float) -> str:
    """A number, or a dash where there is none."""
    return show_number(value) if math.isfinite(value) else DASH


def noise_floor(results: ModelSimilarity) -> str:
    """One sentence: how far two fits of the same layer agree when order alone differs; "" where that was not measured."""
    layers = [entry for entry in results.reordered if entry.hook_name is not None]
    if not layers:
        return ""
    values = [overlap.excess for entry in layers for overlap in entry.overlaps]
    low, high, mean = (show_number(value) for value in (min(values), max(values), sum(values) / len(values)))
    return (
        f"Noise floor: fits of the same layer on the same tokens in another order have an excess over chance of {low} to {high} "
        f"({mean} on average). Fits that are compared here read the tokens in one order, and so also share what order decides."
    )


def size_line(results: ModelSimilarity) -> str:
    """One sentence: how many atoms are compared, and of what; "" where no dictionaries are."""
    if not results.atoms:
        return ""
    return (
        f"Dictionaries are compared by their first {results.atoms:,} atoms, the size of the smallest, out of "
        f"{results.universe:,} tokens that all fits read. Two random sets of that size have a Jaccard index of "
        f"{show_number(results.chance)}."
    )


def reordered_of(results: ModelSimilarity, model: str) -> Sequence[Reordered]:
    """The entry of the union of a model's layers; none where other orders were not asked for."""
    return [entry for entry in results.reordered if entry.model == model and entry.hook_name is None]
