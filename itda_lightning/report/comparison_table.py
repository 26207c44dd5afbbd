"""A comparison as a table on the terminal. Text from data is never read as markup."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from itda_lightning.report.words.columns import Column, cost_columns, measure_columns
from itda_lightning.report.words.excerpt import visible
from itda_lightning.report.words.verdict import verdicts
from itda_lightning.report.words.verdict_words import failures_line, headline
from itda_lightning.report.words.wording import show_number
from itda_lightning.results.comparison import Comparison, Row

# What a terminal may have room for, the first before the last; the dashboard shows all. Keys as of columns.
SHOWN = ("l0", "fvu", "ce_loss_increase", "kl_div_with_sae", "cost/seconds", "probing/k=1", "probing/all", "dead_share")
SHORT = {
    "ce_loss_increase": "CE increase",
    "kl_div_with_sae": "KL",
    "probing/k=1": "Probe 1",
    "probing/all": "Probe all",
}
# Of the first column, whose names are folded, and of the gap between two columns.
NAMES, GAP = 24, 3


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Print the entries with their main figures, why others failed, and which does best at what."""
    console = console or Console()
    rows = comparison.rows
    measured = [row for row in rows if row.failure is None]
    table = Table(title=Text(visible(comparison.title)), box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("entry", overflow="fold", max_width=NAMES)
    table.add_column("latents", justify="right", no_wrap=True)
    columns = _fitting(measured, console.width - NAMES - len("latents") - 2 * GAP)
    for column in columns:
        table.add_column(_heading(column), justify="right", no_wrap=True)
    for row in measured:
        name = visible(row.name) + (" (reused)" if row.reused else "")
        table.add_row(*map(Text, [name, show_number(row.width), *(column.text(row) for column in columns)]))
    if table.row_count:
        console.print(table)
    for row in rows:
        if row.failure is not None:
            console.print(Text.assemble((visible(row.name), "bold"), (" failed: ", "bold red"), visible(row.failure)))
    for verdict in verdicts(rows):
        console.print(Text(visible(headline(verdict))))
    console.print(Text(visible(failures_line(rows)), "dim"))


def _fitting(rows: Sequence[Row], room: int) -> list[Column]:
    """The columns that find room beside each other; others are left to the dashboard."""
    known = {column.key: column for column in (*measure_columns(rows), *cost_columns(rows))}
    columns = []
    for column in (known[key] for key in SHOWN if key in known):
        room -= GAP + max(len(_heading(column)), *(len(column.text(row)) for row in rows))
        if room < 0:
            break
        columns.append(column)
    return columns


def _heading(column: Column) -> str:
    return SHORT.get(column.key, column.heading)
