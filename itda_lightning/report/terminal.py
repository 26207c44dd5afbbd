"""Print results as tables on the terminal. Text from data is never read as markup."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from itda_lightning.dictionary.sources import Prompt
from itda_lightning.report.words.columns import Column, columns_of
from itda_lightning.report.words.excerpt import excerpt, visible
from itda_lightning.report.words.falling_loss import under_trained
from itda_lightning.report.words.model_words import (
    SIMILARITIES,
    means_of,
    noise_floor,
    ranking_summary,
    show_overlap,
    size_line,
)
from itda_lightning.report.words.verdict import failures_line, headline, verdicts
from itda_lightning.report.words.wording import (
    NEGATIVE,
    describe_metric,
    from_mean,
    show_coefficient,
    show_cosine,
    show_known,
    show_number,
    show_seconds,
    show_share,
)
from itda_lightning.results.comparison import Comparison, Row
from itda_lightning.results.difference import Difference
from itda_lightning.results.model_similarity import ModelSimilarity
from itda_lightning.results.run_results import TokenDecomposition

# Room on a line for what follows a token, and for the columns and gaps beside a prompt in each table.
AFTER, BESIDE_A_TERM, COSINE_COLUMN, BESIDE_A_DIFFERENCE = 16, 24, 8, 40
# Columns of a comparison that a terminal may have room for, the most important first, with short headings.
COLUMNS = {
    "l0": "L0",
    "fvu": "FVU",
    "ce_loss_increase": "CE increase",
    "kl_div_with_sae": "KL",
    "cost/seconds": "Made in",
    "probing/k=1": "Probe 1",
    "probing/all": "Probe all",
    "dead_share": "Dead",
}
# Widths of the column of names, which are folded, and of the gap between two columns.
NAMES, GAP = 24, 3
# Atoms printed of each ranking of differences.
RANKED = 10
PROMPT = "the atom's prompt"


def print_metrics(metrics: Mapping[str, float | int], console: Console | None = None) -> None:
    """Print metrics in their order, each with its name and meaning."""
    table = _table("metric", "value", "", text=("metric", ""))
    table.columns[0].no_wrap, table.columns[2].style = True, "dim"
    for key, value in metrics.items():
        name, meaning = describe_metric(key)
        table.add_row(Text(visible(name)), Text(show_number(value)), Text(meaning))
    (console or Console()).print(table)


def print_seconds(seconds: Mapping[str, float], title: str, console: Console | None = None) -> None:
    """Print the seconds of each part of some work, and their sum."""
    table = _table(title, "seconds", text=(title,))
    for part, value in seconds.items():
        table.add_row(Text(visible(part)), f"{value:.0f}")
    table.add_section()
    table.add_row("all", f"{sum(seconds.values()):.0f}")
    (console or Console()).print(table)


def print_decomposition(
    decomposition: TokenDecomposition,
    console: Console | None = None,
    *,
    max_terms: int | None = None,
    cosines: Sequence[float] | None = None,
) -> None:
    """Print one activation as a table of at most ``max_terms`` atoms: index, coefficient and prompt.

    Each cosine, of a refined atom with its label's activation, is also printed.
    """
    console = console or Console()
    console.print(_marked(decomposition.prompt, console.width, console))
    unexplained = show_share(decomposition.unexplained)
    _print_dim(console, f"norm {show_number(decomposition.norm)}{from_mean(decomposition)}, {unexplained} unexplained")
    table = _table("atom", "coefficient", *([] if cosines is None else ["cosine"]), PROMPT, text=(PROMPT,))
    room = console.width - BESIDE_A_TERM - (COSINE_COLUMN if cosines is not None else 0)
    for term in decomposition.terms[:max_terms]:
        prompt = _marked(term.prompt, room, console) if term.prompt is not None else Text("unknown", "dim")
        cosine = [] if cosines is None else [show_cosine(cosines[term.atom])]
        table.add_row(str(term.atom), show_coefficient(term.coefficient), *cosine, prompt)
    console.print(table)
    if cosines is not None:
        _print_dim(console, "cosine: of the refined atom with the activation of the marked token")
    if any(term.coefficient < 0 for term in decomposition.terms):
        _print_dim(console, NEGATIVE)
    left_out = len(decomposition.terms[max_terms:]) if max_terms is not None else 0
    if left_out:
        _print_dim(console, f"and {left_out} more")


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Print the entries with their main measures, why others failed, and which is best at what."""
    console = console or Console()
    rows = comparison.rows
    measured = [row for row in rows if row.failure is None]
    columns = _columns(measured, console.width - NAMES - len("latents") - 2 * GAP)
    headings = [COLUMNS[column.key] for column in columns]
    table = _table("entry", "latents", *headings, text=("entry",), title=comparison.title)
    table.columns[0].overflow, table.columns[0].max_width = "fold", NAMES
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
    for words in under_trained(rows):
        console.print(Text(visible(words)))
    _print_dim(console, failures_line(rows))


def print_difference(difference: Difference, console: Console | None = None) -> None:
    """Print for each direction the atoms that the other model's dictionary explains worst, and how many were read."""
    console = console or Console()
    console.print(Text(visible(difference.title), "bold"))
    for direction in difference.directions:
        title = f"Atoms of {direction.owner}, read by {direction.reader}"
        table = _table("atom", "excess", "own", "other's", PROMPT, text=(PROMPT,), title=title)
        for atom in direction.atoms[:RANKED]:
            own = "" if atom.unexplained_own is None else show_share(atom.unexplained_own)
            numbers = [str(atom.atom), show_coefficient(100 * atom.excess), own, show_share(atom.unexplained)]
            table.add_row(*numbers, _marked(atom.prompt, console.width - BESIDE_A_DIFFERENCE, console))
        console.print(table)
        _print_dim(console, ranking_summary(direction))


def print_similarity(results: ModelSimilarity, console: Console | None = None) -> None:
    """Print how well each measure matches layers, how similar whole models are, and what order alone changes."""
    console = console or Console()
    table = _table("measure", "layers matched", "with self-pairs", "seconds", text=("measure",), title=results.title)
    chance = _table("measure", "mean value", "tokens permuted", "excess", text=("measure",))
    for measured in results.measured:
        accuracy = show_known(measured.accuracy, measured.accuracy_error)
        cells = [SIMILARITIES[measured.measure][0], accuracy, show_known(measured.paper_accuracy)]
        table.add_row(*map(Text, [*cells, show_seconds(measured.seconds)]))
        chance.add_row(*map(Text, [cells[0], *map(show_known, means_of(measured, results.sites))]))
    console.print(table)
    console.print(chance)
    for pair in results.whole_models:
        console.print(
            Text.assemble(
                (f"{visible(pair.first)} and {visible(pair.second)}", "bold"),
                f", all layers together: Jaccard index {show_overlap(pair.overlap, 'jaccard')}, "
                f"by chance {show_number(pair.overlap.expected)}, over chance {show_overlap(pair.overlap)}",
            )
        )
    _print_dim(console, size_line(results), noise_floor(results))


def _table(*headings: str, text: Sequence[str], title: str | None = None) -> Table:
    """Return an empty table: columns with the headings in ``text`` are of text, the others of numbers."""
    table = Table(title=None if title is None else Text(visible(title)), box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        number = heading not in text
        table.add_column(heading, justify="right" if number else "left", no_wrap=number)
    return table


def _print_dim(console: Console, *lines: str) -> None:
    for line in filter(None, lines):
        console.print(Text(visible(line), "dim"))


def _columns(rows: Sequence[Row], room: int) -> list[Column]:
    """Return the most important columns that fit beside each other."""
    known = {column.key: column for column in columns_of(rows)}
    columns = []
    for column in (known[key] for key in COLUMNS if key in known):
        room -= GAP + max(len(COLUMNS[column.key]), *(len(column.text(row)) for row in rows))
        if room < 0:
            break
        columns.append(column)
    return columns


def _marked(prompt: Prompt, width: int, console: Console) -> Text:
    """Return the end of a prompt that fits ``width``, its token marked.

    Bold and underlined, so that it shows without colour too, or in brackets, which a file keeps.
    """
    token = excerpt(prompt, 0, 0).token
    room = max(0, width - cell_len(token) - AFTER - len("[……]"))
    before, token, after = excerpt(prompt, room, AFTER)
    token = token if console.is_terminal else f"[{token}]"
    return Text.assemble((before, "dim"), (token, "bold underline yellow"), (after, "dim"))
