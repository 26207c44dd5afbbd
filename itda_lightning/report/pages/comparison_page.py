"""A comparison as one HTML file that needs no network and no server."""

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from itda_lightning.machine.atomic_files import write_text
from itda_lightning.report.figures.comparison_figures import cost_figures, density_lines, pareto_figures
from itda_lightning.report.figures.methods import marker, method_label, methods_of
from itda_lightning.report.figures.overlay import density_overlay
from itda_lightning.report.figures.probing_plot import BASELINE, probes_of, probing_plot
from itda_lightning.report.figures.scatter import radius
from itda_lightning.report.pages.inline import assets, environment, json_for_html, policy
from itda_lightning.report.pages.latent_data import latent_lines, overview
from itda_lightning.report.words.columns import cost_columns, measure_columns, measure_words, shared_columns
from itda_lightning.report.words.verdict import verdicts
from itda_lightning.report.words.verdict_words import cost_line, failures_line, headline, listed, ordinal, shown
from itda_lightning.report.words.wording import show_number
from itda_lightning.results.comparison import Comparison, Row


def write_dashboard(comparison: Comparison, path: str | Path) -> None:
    """Write ``render_dashboard(comparison)`` to ``path`` in one step. Raises InputError where that is not possible."""
    write_text(Path(path), render_dashboard(comparison))


def render_dashboard(comparison: Comparison) -> str:
    """The comparison as one self-contained HTML page.

    Words, plots and the table are in the HTML itself; latents are drawn on demand from data embedded in the page. Styles,
    script and data are inline, and a content security policy forbids everything else.
    """
    style, script = assets("page.css", "dashboard.css"), assets("drawing.js", "dashboard.js")
    rows = comparison.rows
    measured = [row for row in rows if row.failure is None]
    methods = methods_of(measured)
    columns = [*measure_columns(rows), *cost_columns(rows)]
    shared = shared_columns(rows, columns)
    latents = comparison.latents
    made = environment()
    made.globals.update(method_label=method_label, marker=marker, shown=shown, listed=listed, ordinal=ordinal)
    made.filters["measure"] = measure_words
    lines = density_lines(rows, methods)
    return made.get_template("dashboard.html").render(
        comparison=comparison,
        policy=policy(style, script),
        style=style,
        script=script,
        state=failures_line(rows),
        cost=cost_line(rows),
        verdicts=[(verdict, headline(verdict)) for verdict in verdicts(rows)],
        methods=methods,
        legend=list(dict.fromkeys(methods.values())),
        sizes=_sizes(measured),
        pareto=pareto_figures(rows, methods),
        costs=cost_figures(rows, methods),
        densities=density_overlay(lines),
        density_rows=[(number, rows[number - 1], method) for number, method, _ in lines],
        first_shown=_best_of_each_method(measured),
        probing=probing_plot(rows, methods),
        probes=[*probes_of(rows), BASELINE],
        columns=[column for column in columns if column not in shared],
        shared=[(column, column.text(measured[0])) for column in shared],
        overview=None if latents is None else json_for_html(overview(latents)),
        latents=None if latents is None else Markup("\n").join(map(json_for_html, latent_lines(latents))),
    )


def _sizes(rows: Sequence[Row]) -> list[tuple[str, float]]:
    """Widths with the radii of their marks, for the legend: the narrowest, one between, the widest."""
    widths = sorted({row.width for row in rows if row.width > 0})
    if len(widths) < 2:
        return []
    chosen = dict.fromkeys([widths[0], widths[len(widths) // 2], widths[-1]])
    return [(show_number(width), radius(width, widths)) for width in chosen]


def _best_of_each_method(rows: Sequence[Row]) -> set[str]:
    """The names of the entries with the lowest FVU of their method: what a crowded plot shows first."""
    best: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: (row.value("fvu") != row.value("fvu"), row.value("fvu"))):
        best.setdefault(method_label(row), row)
    return {row.name for row in best.values()}
