"""A comparison of models as one HTML file that needs no network and no server."""

import math
from dataclasses import dataclass
from pathlib import Path

from itda_lightning.machine.atomic_files import write_text
from itda_lightning.report.figures.heat_map import HeatMap, Shades, heat_map, sites_of_models
from itda_lightning.report.pages.inline import assets, environment, policy
from itda_lightning.report.words.similarity_words import (
    measure_words,
    noise_floor,
    reordered_of,
    show_accuracy,
    show_known,
    show_overlap,
    size_line,
)
from itda_lightning.results.model_similarity import MeasuredSites, ModelSimilarity

NOT_SYMMETRIC = ("pwcca", "regression")
# Longer labels of columns would run into each other.
LONGEST_LABEL = 3


@dataclass(frozen=True)
class Part:
    """What the page shows of one measure.

    Attributes:
        key, name, meaning: the measure.
        steps: (colour, value) of the scale.
        maps: one a pair of models, and one a model with itself.
    """

    key: str
    name: str
    meaning: str
    steps: list[tuple[str, str]]
    maps: list[HeatMap]


def write_similarity(results: ModelSimilarity, path: str | Path) -> None:
    """Write ``render_similarity(results)`` to ``path`` in one step. Raises InputError where that is not possible."""
    write_text(Path(path), render_similarity(results))


def render_similarity(results: ModelSimilarity) -> str:
    """The comparison as one self-contained HTML page, without a script: every value stands in its cell, more on hover."""
    style = assets("page.css", "similarity.css")
    made = environment()
    made.globals.update(overlap=show_overlap, accuracy=show_accuracy, known=show_known, reordered=reordered_of)
    made.filters.update(measure=measure_words, overlap=show_overlap)
    return made.get_template("similarity.html").render(
        results=results,
        policy=policy(style, ""),
        style=style,
        size=size_line(results),
        floor=noise_floor(results),
        matched=any(math.isfinite(measured.accuracy) for measured in results.measured),
        slanted=max(len(site.label) for site in results.sites) > LONGEST_LABEL,
        parts=[_part(measured, results) for measured in results.measured],
    )


def _part(measured: MeasuredSites, results: ModelSimilarity) -> Part:
    name, meaning = measure_words(measured.measure)
    shades = Shades.of(measured.values)
    models = sites_of_models(results.sites)
    pairs = [
        (first, second)
        for a, first in enumerate(models)
        for b, second in enumerate(models)
        if (a <= b or measured.measure in NOT_SYMMETRIC) and (a != b or len(first) > 1)
    ]
    maps = [heat_map(measured, results.sites, first, second, shades) for first, second in pairs]
    return Part(measured.measure, name, meaning, shades.steps(), maps)
