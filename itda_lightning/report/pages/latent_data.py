"""Turn atoms and their nearest latents into data that a page's script draws from, one at a time.

Five entries of 16,384 latents take too long to parse before a page shows. So each latent has a line of JSON of its own,
parsed when the latent is shown; lists, searches and orders need only the short arrays of ``overview``.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from itda_lightning.dictionary.sources import Prompt
from itda_lightning.report.words.excerpt import excerpt, visible
from itda_lightning.report.words.wording import show_cosine
from itda_lightning.results.comparison import LatentView

# Characters of an atom's prompt before and after its token.
SOURCE_WINDOW = (160, 60)


def overview(view: LatentView) -> dict[str, Any]:
    """Return what the script reads at once: names, prompts, held-out tokens, and which line is nearest to which."""
    first, others = len(view.atoms), list[dict[str, Any]]()
    for other in view.others:
        line = {summary.latent: first + place for place, summary in enumerate(other.latents)}
        nearest = [line[latent] for latent, _ in other.nearest]
        cosines = [round(cosine, 3) for _, cosine in other.nearest]
        others.append({"name": visible(other.name), "nearest": nearest, "cosines": cosines})
        first += len(other.latents)
    return {
        "reference": visible(view.reference),
        "tokens": [[visible(token) for token in row] for row in view.rows],
        "vocabulary": [visible(token) for token in view.vocabulary],
        "atoms": [summary.latent for summary in view.atoms],
        "densities": [_short(summary.density) for summary in view.atoms],
        "prompts": [cut(source, SOURCE_WINDOW) for source in view.sources],
        "refined": None if view.source_cosines is None else [show_cosine(cosine) for cosine in view.source_cosines],
        "others": others,
        "nearest": [_largest([other["cosines"][place] for other in others]) for place in range(len(view.atoms))],
    }


def _largest(cosines: Sequence[float]) -> float | None:
    """Return the largest |cosine| of an atom with others' latents, of which twins, the atom itself, do not count."""
    return max((abs(cosine) for cosine in cosines if abs(cosine) < 1), default=None)


def latent_lines(view: LatentView) -> list[list[Any]]:
    """Return what the script reads of one latent at a time: first the atoms, then the latents of each other entry.

    A line is latent, density, histogram (low end, bin width, counts), top (token, activation, ...), logit effects.
    """
    lines = []
    for latent in chain(view.atoms, *(other.latents for other in view.others)):
        low, width, counts = filled_bins(latent.histogram, latent.limit)
        top = [value for token, activation in latent.top for value in (token, _short(activation))]
        numbers = [latent.latent, _short(latent.density), _short(low), _short(width, 6)]
        lines.append([*numbers, counts, top, latent.promoted, latent.suppressed])
    return lines


def filled_bins(counts: Sequence[int], limit: float) -> tuple[float, float, Sequence[int]]:
    """Return the low end, width and counts of the bins from the first to the last that is not empty.

    They are among an even number of bins over (-limit, limit).
    """
    filled = [index for index, count in enumerate(counts) if count]
    first, last = (filled[0], filled[-1] + 1) if filled else (0, 0)
    half = len(counts) // 2
    width = limit / half if half else 0.0
    return (first - half) * width, width, counts[first:last]


def cut(prompt: Prompt | None, window: tuple[int, int]) -> Prompt | None:
    """Return the prompt with so many characters before and after its token; None stays None."""
    return None if prompt is None else excerpt(prompt, *window)


def _short(value: float, digits: int = 3) -> float | int:
    """Round to this many significant digits, to an integer if it is one: fewer characters of JSON."""
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded.is_integer() else rounded
