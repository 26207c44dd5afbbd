"""Render comparisons of models as one HTML file each that needs no network and no server."""

import math
from pathlib import Path
from typing import Any

from itda_lightning.report.figures.heat_map import Shades, heat_map, sites_of_models
from itda_lightning.report.pages.inline import render, write_html
from itda_lightning.report.words.excerpt import excerpt
from itda_lightning.report.words.model_words import (
    SIMILARITIES,
    means_of,
    noise_floor,
    null_line,
    ranking_summary,
    size_line,
)
from itda_lightning.results.difference import Difference, Direction
from itda_lightning.results.model_similarity import MeasuredSites, ModelSimilarity

# Characters of a prompt before and after its token.
WINDOW = (160, 50)
# Longer headings of columns stand upright.
LONGEST_LABEL = 3


def write_difference_page(difference: Difference, path: str | Path, shown: int) -> None:
    """Write ``render_difference(difference, shown)`` to ``path`` in one step."""
    write_html(path, render_difference(difference, shown))


def render_difference(difference: Difference, shown: int) -> str:
    """Render the difference as one self-contained HTML page with ``shown`` rows from either end of each ranking."""
    return render(
        "difference.html",
        ["page.css", "difference.css"],
        ["sorting.js"],
        difference=difference,
        directions=[_direction(direction, shown) for direction in difference.directions],
    )


def write_similarity(results: ModelSimilarity, path: str | Path) -> None:
    """Write ``render_similarity(results)`` to ``path`` in one step."""
    write_html(path, render_similarity(results))


def render_similarity(results: ModelSimilarity) -> str:
    """Render the comparison as one self-contained HTML page without a script: all values are in tables."""
    return render(
        "similarity.html",
        ["page.css", "similarity.css"],
        results=results,
        similarities=SIMILARITIES,
        size=size_line(results),
        floor=noise_floor(results),
        matched=any(math.isfinite(measured.accuracy) for measured in results.measured),
        slanted=max(len(site.label) for site in results.sites) > LONGEST_LABEL,
        means={measured.measure: means_of(measured, results.sites) for measured in results.measured},
        parts=[_part(measured, results) for measured in results.measured],
    )


def _direction(direction: Direction, shown: int) -> dict[str, Any]:
    ranked = list(enumerate(direction.atoms, start=1))
    rows = ranked if len(ranked) <= 2 * shown else ranked[:shown] + ranked[-shown:]
    return {
        "owner": direction.owner,
        "reader": direction.reader,
        "summary": ranking_summary(direction),
        "left_out": len(ranked) - len(rows),
        "one_width": all(atom.unexplained_own is not None for atom in direction.atoms),
        "rows": [{"rank": rank, "atom": atom, "prompt": excerpt(atom.prompt, *WINDOW)} for rank, atom in rows],
    }


def _part(measured: MeasuredSites, results: ModelSimilarity) -> dict[str, Any]:
    """Lay out a measure: the smallest value of each shade, and a map per pair of models and per model with itself."""
    shades = Shades.of(measured.values)
    models = sites_of_models(results.sites)
    not_symmetric = measured.measure in ("pwcca", "regression")
    return {
        "key": measured.measure,
        "null": null_line(measured, results.sites),
        "steps": shades.steps(),
        "maps": [
            heat_map(measured, results.sites, first, second, shades)
            for a, first in enumerate(models)
            for b, second in enumerate(models)
            if (a <= b or not_symmetric) and (a != b or len(first) > 1)
        ],
    }
