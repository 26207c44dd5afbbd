"""Render a comparison of models as one HTML file that needs no network and no server."""

import math
from dataclasses import dataclass
from pathlib import Path

from itda_lightning.machine.atomic_files import write_text
from itda_lightning.report.figures.heat_map import HeatMap, Shades, heat_map, sites_of_models
from itda_lightning.report.pages.inline import render
from itda_lightning.report.words.model_words import (
    SIMILARITIES,
    noise_floor,
    reordered_of,
    show_accuracy,
    show_known,
    size_line,
)
from itda_lightning.results.model_similarity import MeasuredSites, ModelSimilarity

NOT_SYMMETRIC = ("pwcca", "regression")
# Longer headings of columns stand upright.
LONGEST_LABEL = 3


@dataclass(frozen=True)
class Part:
    """The part of the page about one measure.

    Attributes:
        key, name, meaning: the measure.
        steps: the smallest value of each shade.
        maps: one per pair of models, and one per model with itself.
    """

    key: str
    name: str
    meaning: str
    steps: list[str]
    maps: list[HeatMap]


def write_similarity(results: ModelSimilarity, path: str | Path) -> None:
    """Write ``render_similarity(results)`` to ``path`` in one step.

    Raises:
        InputError: the file cannot be written.
    """
    write_text(Path(path), render_similarity(results))


def render_similarity(results: ModelSimilarity) -> str:
    """Render the comparison as one self-contained HTML page without a script: all values are in tables."""
    return render(
        "similarity.html",
        ["page.css", "similarity.css"],
        results=results,
        similarities=SIMILARITIES,
        accuracy=show_accuracy,
        known=show_known,
        reordered=reordered_of,
        size=size_line(results),
        floor=noise_floor(results),
        matched=any(math.isfinite(measured.accuracy) for measured in results.measured),
        slanted=max(len(site.label) for site in results.sites) > LONGEST_LABEL,
        parts=[_part(measured, results) for measured in results.measured],
    )


def _part(measured: MeasuredSites, results: ModelSimilarity) -> Part:
    shades = Shades.of(measured.values)
    models = sites_of_models(results.sites)
    maps = [
        heat_map(measured, results.sites, first, second, shades)
        for a, first in enumerate(models)
        for b, second in enumerate(models)
        if (a <= b or measured.measure in NOT_SYMMETRIC) and (a != b or len(first) > 1)
    ]
    return Part(measured.measure, *SIMILARITIES[measured.measure], shades.steps(), maps)
