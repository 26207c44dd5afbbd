"""Turn atoms and their nearest latents into data that a page's script draws from, one at a time.

Five entries of 16,384 latents take too long to parse before a page shows. So each latent has a line of JSON of its own,
parsed when the latent is shown; lists, searches and orders need only the short arrays of ``overview``.
"""

from itertools import chain
from typing import Any

from itda_lightning.report.pages.histogram_bins import filled_bins
from itda_lightning.report.words.excerpt import excerpt, visible
from itda_lightning.report.words.wording import show_cosine
from itda_lightning.results.comparison import LatentSummary, LatentView

# Characters of an atom's prompt before and after its token.
SOURCE_WINDOW = (160, 60)


def overview(view: LatentView) -> dict[str, Any]:
    """Return what the script reads at once: names, prompts, held-out tokens, and which line is nearest to which."""
    first, others = len(view.atoms), []
    for other in view.others:
        line = {summary.latent: first + place for place, summary in enumerate(other.latents)}
        others.append(
            {
                "name": visible(other.name),
                "nearest": [line[latent] for latent, _ in other.nearest],
                "cosines": [round(cosine, 3) for _, cosine in other.nearest],
            }
        )
        first += len(other.latents)
    return {
        "reference": visible(view.reference),
        "tokens": [[visible(token) for token in row] for row in view.rows],
        "vocabulary": [visible(token) for token in view.vocabulary],
        "atoms": [summary.latent for summary in view.atoms],
        "densities": [_short(summary.density) for summary in view.atoms],
        "prompts": [None if source is None else excerpt(source, *SOURCE_WINDOW) for source in view.sources],
        "refined": None if view.source_cosines is None else [show_cosine(cosine) for cosine in view.source_cosines],
        "others": others,
    }


def latent_lines(view: LatentView) -> list[list[Any]]:
    """Return what the script reads of one latent at a time: first the atoms, then the latents of each other entry."""
    return [_line(summary) for summary in chain(view.atoms, *(other.latents for other in view.others))]


def _line(summary: LatentSummary) -> list[Any]:
    """Return latent, density, histogram (low end, bin width, counts), top (token, activation, ...), logit effects."""
    low, width, counts = filled_bins(summary.histogram, summary.limit)
    return [
        summary.latent,
        _short(summary.density),
        _short(low),
        _short(width, 6),
        counts,
        [value for token, activation in summary.top for value in (token, _short(activation))],
        summary.promoted,
        summary.suppressed,
    ]


def _short(value: float, digits: int = 3) -> float | int:
    """Round to this many significant digits, to an integer if it is one: fewer characters of JSON."""
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded.is_integer() else rounded
