"""Render a comparison of dictionaries as one HTML file that needs no network and no server."""

from collections.abc import Sequence
from pathlib import Path

from humanize import ordinal

from itda_lightning.report.figures.comparison_figures import cost_figures, pareto_figures
from itda_lightning.report.figures.densities import density_overlay
from itda_lightning.report.figures.methods import marker, method_label, methods_of
from itda_lightning.report.figures.probing_plot import BASELINE, probes_of, probing_plot
from itda_lightning.report.figures.scatter import radius
from itda_lightning.report.pages.inline import packed, packed_lines, render, write_html
from itda_lightning.report.pages.latent_data import latent_lines, overview
from itda_lightning.report.words.columns import columns_of, shared_columns
from itda_lightning.report.words.differences import note, tables_of_differences
from itda_lightning.report.words.falling_loss import still_falling, under_trained
from itda_lightning.report.words.verdict import cost_line, failures_line, headline, shown, verdicts
from itda_lightning.report.words.wording import show_number
from itda_lightning.results.comparison import Comparison, Row


def write_dashboard(comparison: Comparison, path: str | Path) -> None:
    """Write ``render_dashboard(comparison)`` to ``path`` in one step."""
    write_html(path, render_dashboard(comparison))


def render_dashboard(comparison: Comparison) -> str:
    """Render the comparison as one self-contained HTML page; latents are drawn on demand by its script."""
    rows, latents = comparison.rows, comparison.latents
    measured = [row for row in rows if row.failure is None]
    methods = methods_of(measured)
    columns = columns_of(rows)
    shared = shared_columns(rows, columns)
    differences = tables_of_differences(rows)
    used = [(number, row) for number, row in enumerate(rows, 1) if row.failure is None and row.densities]
    return render(
        "dashboard.html",
        ["page.css", "dashboard.css"],
        ["drawing.js", "sorting.js", "atom_list.js", "dashboard.js"],
        comparison=comparison,
        method_label=method_label,
        marker=marker,
        shown=shown,
        ordinal=ordinal,
        state=failures_line(rows),
        cost=cost_line(rows),
        under_trained=under_trained(rows),
        still_falling=still_falling,
        verdicts=[(verdict, headline(verdict)) for verdict in verdicts(rows)],
        differences=differences,
        note=note(differences),
        methods=methods,
        legend=list(dict.fromkeys(methods.values())),
        sizes=_sizes(measured),
        pareto=pareto_figures(rows, methods),
        costs=cost_figures(rows, methods),
        densities=density_overlay([(number, methods[row.name], row.densities) for number, row in used]),
        density_rows=[(number, row, methods[row.name]) for number, row in used],
        first_shown=_best_of_each_method(measured),
        probing=probing_plot(rows, methods),
        probes=[*probes_of(rows), BASELINE],
        columns=[column for column in columns if column not in shared],
        shared=[(column, column.text(measured[0])) for column in shared],
        overview=None if latents is None else packed(overview(latents)),
        latents=None if latents is None else packed_lines(latent_lines(latents)),
    )


def _sizes(rows: Sequence[Row]) -> list[tuple[str, float]]:
    """Return widths with the radii of their marks, for the legend: the narrowest, one between, the widest."""
    widths = sorted({row.width for row in rows if row.width > 0})
    if len(widths) < 2:
        return []
    chosen = dict.fromkeys([widths[0], widths[len(widths) // 2], widths[-1]])
    return [(show_number(width), radius(width, widths)) for width in chosen]


def _best_of_each_method(rows: Sequence[Row]) -> set[str]:
    """Return the names of the entries with the lowest FVU of their method: what a crowded plot shows first."""
    best: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: (row.value("fvu") != row.value("fvu"), row.value("fvu"))):
        best.setdefault(method_label(row), row)
    return {row.name for row in best.values()}
