"""Log comparisons to Weights & Biases: their tables, plots and pages. No problem there stops a comparison."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from itda_lightning.machine.wandb_mode import wandb_mode
from itda_lightning.report.figures.comparison_figures import L0, SECONDS, SEEN
from itda_lightning.report.figures.densities import BINS_PER_DECADE, density_shares
from itda_lightning.report.figures.methods import method_label
from itda_lightning.report.pages.comparison_page import render_dashboard
from itda_lightning.report.pages.model_pages import render_similarity
from itda_lightning.report.words.columns import columns_of
from itda_lightning.results.comparison import Comparison, Row
from itda_lightning.results.model_similarity import ModelSimilarity

logger = logging.getLogger(__name__)


def log_comparison(comparison: Comparison, project: str, directory: Path) -> None:
    """Log the table, scatter plots, curves and the page as a run of ``project`` that is named after ``directory``.

    Online with a key and a network, else offline; problems are warnings.
    """
    _log(project, directory, comparison.facts, lambda: _comparison(comparison))


def log_similarity(results: ModelSimilarity, project: str, directory: Path) -> None:
    """Log tables of all values, of layer matching and of other orders, and the page, likewise."""
    _log(project, directory, results.facts, lambda: _similarity(results))


def _log(project: str, directory: Path, facts: Mapping[str, str], content: Callable[[], dict[str, Any]]) -> None:
    """Log what ``content`` returns (key -> table, plot or page) with the facts as the run's config."""
    mode = wandb_mode(directory, otherwise="the comparison is not logged there")
    if mode is None:
        return
    import wandb

    try:
        directory.mkdir(parents=True, exist_ok=True)
        # As a context, so that the run ends whatever happens, and the next one of this process can begin.
        with wandb.init(project=project, name=directory.name, dir=directory, mode=mode) as run:
            run.config.update(dict(facts))
            run.log(content())
    except Exception as error:  # the comparison is finished and saved
        logger.warning("could not log the comparison to W&B: %s", error)


def _comparison(comparison: Comparison) -> dict[str, Any]:
    import wandb

    rows = comparison.rows
    content: dict[str, Any] = {"comparison/entries": _entries(rows)}
    quality = {"fvu": "FVU", "ce_loss_increase": "CE loss increase", "kl_div_with_sae": "KL"}
    axes = {"l0": L0, "activations_seen": SEEN, "seconds": SECONDS}
    for (measure, name), (key, axis) in product(quality.items(), axes.items()):
        points = [
            [row.name, method_label(row), row.width, x, row.value(measure)]
            for row in rows
            if math.isfinite(x := axis.estimate(row).value) and math.isfinite(row.value(measure))
        ]
        if points:
            table = wandb.Table(columns=["entry", "method", "latents", key, measure], data=points)
            title = f"{name} against {key.replace('_', ' ')}"
            content[f"comparison/{measure}_against_{key}"] = wandb.plot.scatter(table, key, measure, title=title)
    curves = {row.name: [point for point in row.curve if math.isfinite(point[1])] for row in rows}
    curves = {name: points for name, points in curves.items() if len(points) > 1}
    if curves:
        content["comparison/curves"] = wandb.plot.line_series(
            xs=[[seen for seen, _ in points] for points in curves.values()],
            ys=[[fvu for _, fvu in points] for points in curves.values()],
            keys=list(curves),
            title="FVU during the fit or the training",
            xname="activations seen",
        )
    probed = [
        [row.name, method_label(row), key.removeprefix("probing/"), estimate.value, estimate.error]
        for row in rows
        for key, estimate in row.measures.items()
        if key.startswith("probing/") and math.isfinite(estimate.value)
    ]
    if probed:
        columns: list[str | int] = ["entry", "method", "probe", "accuracy", "standard error"]
        content["comparison/probing"] = wandb.Table(columns=columns, data=probed)
    used = {row.name: row.densities for row in rows if any(row.densities)}
    if used:
        low, shares = density_shares(list(used.values()))
        content["comparison/densities"] = wandb.plot.line_series(
            xs=[low + (index + 0.5) / BINS_PER_DECADE for index in range(len(shares[0]))],
            ys=shares,
            keys=list(used),
            title="Share of latents by how many tokens use them",
            xname="log10 of the share of tokens",
        )
    content["comparison/dashboard"] = wandb.Html(render_dashboard(comparison), inject=False)
    return content


def _entries(rows: Sequence[Row]) -> Any:
    """Return a table of all rows with all measures, their errors and costs; unknown values are empty."""
    import wandb

    figures = [(column, part) for column in columns_of(rows) for part in ("value", "error")]
    figures = [(column, part) for column, part in figures if part == "value" or not column.key.startswith("cost/")]
    names = [column.key if part == "value" else f"{column.key} error" for column, part in figures]
    return wandb.Table(
        columns=["entry", "kind", "method", "latents", "failure", "reused", *names],
        data=[
            [row.name, row.kind, method_label(row), row.width, row.failure, row.reused]
            + [_finite(getattr(column.estimate(row), part)) for column, part in figures]
            for row in rows
        ],
    )


def _similarity(results: ModelSimilarity) -> dict[str, Any]:
    import wandb

    names = [f"{site.model} {site.hook_name}" for site in results.sites]
    content: dict[str, Any] = {}
    for measured in results.measured:
        content[f"similarity/{measured.measure}"] = wandb.Table(
            columns=["row", "column", "similarity", "standard error", "permuted", "excess"],
            data=[
                [
                    *(first, second, measured.values[i][j], _finite(measured.errors[i][j])),
                    *(_finite(m[i][j]) if m else None for m in (measured.nulls, measured.excesses)),
                ]
                for i, first in enumerate(names)
                for j, second in enumerate(names)
            ],
        )
    content["similarity/layer_matching"] = wandb.Table(
        columns=["measure", "accuracy", "standard error", "accuracy with self-pairs", "seconds"],
        data=[
            [one.measure, _finite(one.accuracy), _finite(one.accuracy_error), _finite(one.paper_accuracy), one.seconds]
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
            data=[[what, of, one.jaccard, one.expected, one.excess, _finite(one.error)] for what, of, one in overlaps],
        )
    # The page has the heat maps.
    content["similarity/page"] = wandb.Html(render_similarity(results), inject=False)
    return content


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
