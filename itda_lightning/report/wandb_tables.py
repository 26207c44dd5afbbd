"""A comparison on Weights & Biases: its table, its plots and its dashboard. Nothing that goes wrong there costs a comparison."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from itda_lightning.fitting.wandb_logger import log_comparison_run
from itda_lightning.report.figures.methods import method_label
from itda_lightning.report.figures.overlay import BINS_A_DECADE, density_shares
from itda_lightning.report.pages.comparison_page import render_dashboard
from itda_lightning.report.words.columns import Column, cost_columns, measure_columns, wall_seconds
from itda_lightning.results.comparison import Comparison, Row

QUALITY = {"fvu": "FVU", "ce_loss_increase": "CE loss increase", "kl_div_with_sae": "KL"}


def log_comparison(comparison: Comparison, project: str, directory: Path) -> None:
    """Log the table, scatter plots, curves and the dashboard as a run of ``project``, which is named after ``directory``.

    Online with a key and a network, else offline; problems are warnings.
    """
    log_comparison_run(project, directory, comparison.facts, lambda: _content(comparison))


def _content(comparison: Comparison) -> dict[str, Any]:
    """Key -> table, plot or page."""
    import wandb

    rows = comparison.rows
    columns = [*measure_columns(rows), *cost_columns(rows)]
    content: dict[str, Any] = {"comparison/entries": _entries(rows, columns)}
    for measure, name in QUALITY.items():
        for key, across in (("l0", _l0), ("activations_seen", _seen), ("seconds", wall_seconds)):
            points = [
                [row.name, method_label(row), row.width, across(row), row.value(measure)]
                for row in rows
                if math.isfinite(across(row)) and math.isfinite(row.value(measure))
            ]
            if points:
                table = wandb.Table(columns=["entry", "method", "latents", key, measure], data=points)
                title = f"{name} against {key.replace('_', ' ')}"
                content[f"comparison/{measure}_against_{key}"] = wandb.plot.scatter(table, key, measure, title=title)
    curves = {row.name: [point for point in row.curve if math.isfinite(point[1])] for row in rows}
    lines = {name: points for name, points in curves.items() if len(points) > 1}
    if lines:
        content["comparison/curves"] = wandb.plot.line_series(
            xs=[[seen for seen, _ in points] for points in lines.values()],
            ys=[[fvu for _, fvu in points] for points in lines.values()],
            keys=list(lines),
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
        content["comparison/probing"] = wandb.Table(
            columns=["entry", "method", "probe", "accuracy", "standard error"], data=probed
        )
    used = {row.name: row.densities for row in rows if any(row.densities)}
    if used:
        low, shares = density_shares(list(used.values()))
        content["comparison/densities"] = wandb.plot.line_series(
            xs=[low + (index + 0.5) / BINS_A_DECADE for index in range(len(shares[0]))],
            ys=shares,
            keys=list(used),
            title="Share of latents by how many tokens use them",
            xname="log10 of the share of tokens",
        )
    content["comparison/dashboard"] = wandb.Html(render_dashboard(comparison), inject=False)
    return content


def _entries(rows: Sequence[Row], columns: Sequence[Column]) -> Any:
    """All rows with all measures, their errors and costs; what is not known is empty."""
    import wandb

    names: list[str | int] = ["entry", "kind", "method", "latents", "failure", "reused"]
    for column in columns:
        names += [column.key] if column.key.startswith("cost/") else [column.key, f"{column.key} error"]
    table = wandb.Table(columns=names)
    for row in rows:
        cells: list[Any] = [row.name, row.kind, method_label(row), row.width, row.failure, row.reused]
        for column in columns:
            estimate = column.estimate(row)
            cells.append(_known(estimate.value))
            if not column.key.startswith("cost/"):
                cells.append(_known(estimate.error))
        table.add_data(*cells)
    return table


def _known(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _l0(row: Row) -> float:
    return row.value("l0")


def _seen(row: Row) -> float:
    return math.nan if row.cost.activations_seen is None else float(row.cost.activations_seen)
