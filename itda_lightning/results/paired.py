"""Differences between two entries of a comparison, with errors over the documents or draws that both were measured on.

Documents, and draws of probes, differ far more from each other than entries do. Two entries measured on the same ones
share most of their errors, so the error of their difference is that of the differences within each.
"""

import math
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.errors import InputError
from itda_lightning.results.comparison import ByDocument, Estimate, Row

# Resamples of the documents in a comparison.
RESAMPLES = 1000


def paired_difference(one: Row, other: Row, measure: str) -> Estimate | None:
    """Compute a measure of ``one`` less that of ``other``, and its standard error.

    A ratio of sums over documents is computed for both entries on the same resampled documents, those of the errors of
    single rows; the error is the standard deviation of the difference. Scores of probes are subtracted draw by draw,
    and the error is that of the mean over draws, with the datasets held fixed; None for a single draw.

    Returns:
        None if either row has no sums by document and no scores by draw, as in results of earlier versions.

    Raises:
        InputError: rows of other held-out tokens or other draws.

    Example:
        >>> def row(name, *errors):
        ...     sums = ByDocument(above=errors, below=(10.0, 20.0, 40.0))
        ...     return Row(name, "sae", tokens_hash="a", measures={"fvu": Estimate(sum(errors) / 70, 0.1, sums)})
        >>> gap = paired_difference(row("a", 2.5, 8.0, 6.0), row("b", 0.0, 3.0, -4.0), "fvu")
        >>> gap.value, round(gap.error, 12)  # a quarter in each document
        (0.25, 0.0)
    """
    hashes = [row.tokens_hash or "unknown" for row in (one, other)]
    _demand(hashes[0] == hashes[1], one, other, f"are of different held-out tokens ({' and '.join(hashes)})")
    first, second = (row.measures.get(measure, Estimate(math.nan)) for row in (one, other))
    if first.documents is not None and second.documents is not None:
        same = len(first.documents.above) == len(second.documents.above)
        _demand(same, one, other, "are sums of different documents")
        return _over_documents(first.documents, second.documents)
    if first.draws is not None and second.draws is not None:
        mine, theirs = (torch.tensor(draws.scores, dtype=torch.float64) for draws in (first.draws, second.draws))
        same = first.draws.examples == second.draws.examples and mine.shape == theirs.shape
        _demand(same, one, other, "are scores of different examples")
        return mean_over_draws(mine - theirs)
    return None


def _demand(same: bool, one: Row, other: Row, reason: str) -> None:
    if not same:
        raise InputError(f"the figures of {one.name} and {other.name} {reason}: measure both in one comparison")


def mean_over_draws(scores: Float[Tensor, "datasets draws"]) -> Estimate:
    """Compute the mean of scores, all datasets weighted equally, and its standard error over draws.

    Differences between easy and hard datasets do not add to the error, which is None for a single draw.
    """
    n_datasets, n_draws = scores.shape
    if n_draws < 2:
        return Estimate(float(scores.mean()))
    return Estimate(float(scores.mean()), float((scores.var(1) / n_draws).sum().sqrt()) / n_datasets)


def _over_documents(one: ByDocument, other: ByDocument) -> Estimate:
    (value, resampled), (other_value, other_resampled) = map(_ratios, (one, other))
    return Estimate(value - other_value, float((resampled - other_resampled).std()))


def _ratios(sums: ByDocument) -> tuple[float, Float[Tensor, " resamples"]]:
    """Return the ratio of the totals, and that of each resample."""
    above, below = (torch.tensor(part, dtype=torch.float64) for part in (sums.above, sums.below))
    counts = _counts(len(above))
    return float(above.sum() / below.sum()), (counts @ above) / (counts @ below)


@cache
def _counts(documents: int) -> Float[Tensor, "resamples documents"]:
    """Return the draws of ``drawn_counts`` of which the errors of single rows are, too."""
    return drawn_counts(documents, RESAMPLES, torch.Generator().manual_seed(0)).double()


def drawn_counts(units: int, resamples: int, generator: torch.Generator) -> Int[Tensor, "resamples units"]:
    """Draw that many of the units with replacement for each resample; return how often each was drawn."""
    drawn = torch.randint(units, (resamples, units), generator=generator)
    return torch.zeros((resamples, units), dtype=torch.int64).scatter_add_(1, drawn, torch.ones_like(drawn))
