"""A comparison of models on Weights & Biases. Nothing that goes wrong there costs a comparison."""

import math
from pathlib import Path
from typing import Any

from itda_lightning.fitting.wandb_logger import log_comparison_run
from itda_lightning.report.pages.similarity_page import render_similarity
from itda_lightning.results.model_similarity import ModelSimilarity


def log_similarity(results: ModelSimilarity, project: str, directory: Path) -> None:
    """Log tables of all values, of layer matching and of other orders, and the page, as a run named after ``directory``.

    Online with a key and a network, else offline; problems are warnings.
    """
    log_comparison_run(project, directory, results.facts, lambda: _content(results))


def _content(results: ModelSimilarity) -> dict[str, Any]:
    """Key -> table, heat map or page."""
    import wandb

    names = [f"{site.model} {site.hook_name}" for site in results.sites]
    content: dict[str, Any] = {}
    for measured in results.measured:
        rows = [
            [names[i], names[j], measured.values[i][j], _known(measured.errors[i][j])]
            for i in range(len(names))
            for j in range(len(names))
        ]
        table = wandb.Table(columns=["row", "column", "similarity", "standard error"], data=rows)
        content[f"similarity/{measured.measure}"] = table
    content["similarity/layer_matching"] = wandb.Table(
        columns=["measure", "accuracy", "standard error", "accuracy with self-pairs", "seconds"],
        data=[
            [one.measure, _known(one.accuracy), _known(one.accuracy_error), _known(one.paper_accuracy), one.seconds]
            for one in results.measured
        ],
    )
    overlaps = [("models", f"{pair.first}, {pair.second}", pair.overlap) for pair in results.whole_models]
    overlaps += [
        ("another order", f"{entry.model} {entry.hook_name or 'all together'}", overlap)
        for entry in results.reordered
        for overlap in entry.overlaps
    ]
    if overlaps:
        content["similarity/sources"] = wandb.Table(
            columns=["what", "of", "jaccard", "by chance", "over chance", "standard error"],
            data=[[what, of, one.jaccard, one.expected, one.excess, _known(one.error)] for what, of, one in overlaps],
        )
    # The page has the heat maps.
    content["similarity/page"] = wandb.Html(render_similarity(results), inject=False)
    return content


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
