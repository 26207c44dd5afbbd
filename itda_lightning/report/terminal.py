"""Metrics and decompositions as tables on the terminal. Text from data is never read as markup."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from itda_lightning.dictionary.sources import Prompt
from itda_lightning.report.words.excerpt import excerpt, visible
from itda_lightning.report.words.wording import describe_metric, show_coefficient, show_cosine, show_number, show_share
from itda_lightning.results.run_results import TokenDecomposition

# Room on a line for what stands behind a token, and for the columns and gaps beside a prompt in a table.
AFTER, COLUMNS, COSINE_COLUMN = 16, 24, 8


def print_metrics(metrics: Mapping[str, float | int], console: Console | None = None) -> None:
    """Print metrics in their order, each with its name and what it is."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("metric", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("", style="dim")
    for key, value in metrics.items():
        name, meaning = describe_metric(key)
        table.add_row(Text(visible(name)), Text(show_number(value)), Text(meaning))
    (console or Console()).print(table)


def print_decomposition(
    decomposition: TokenDecomposition,
    console: Console | None = None,
    *,
    max_terms: int | None = None,
    cosines: Sequence[float] | None = None,
) -> None:
    """Print one activation as a table of atoms: index, coefficient and the atom's prompt with its token marked.

    Of refined atoms also how near they are to the activation of that token.

    Args:
        decomposition: what ``decompose`` gave.
        console: where to print; the standard output by default.
        max_terms: print at most so many terms, and say how many are left out.
        cosines: of every atom of a refined dictionary with its source's activation.
    """
    console = console or Console()
    bracket = not console.is_terminal
    console.print(marked(decomposition.prompt, console.width, bracket))
    console.print(
        Text(f"norm {show_number(decomposition.norm)}, {show_share(decomposition.unexplained)} unexplained", "dim")
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("atom", justify="right", no_wrap=True)
    table.add_column("coefficient", justify="right", no_wrap=True)
    if cosines is not None:
        table.add_column("cosine", justify="right", no_wrap=True)
    table.add_column("the atom's prompt")
    room = console.width - COLUMNS - (COSINE_COLUMN if cosines is not None else 0)
    for term in decomposition.terms[:max_terms]:
        prompt = marked(term.prompt, room, bracket) if term.prompt is not None else Text("unknown", "dim")
        near = [] if cosines is None else [show_cosine(cosines[term.atom])]
        table.add_row(str(term.atom), show_coefficient(term.coefficient), *near, prompt)
    console.print(table)
    if cosines is not None:
        console.print(Text("cosine: of the refined atom with the activation of the marked token", "dim"))
    left_out = len(decomposition.terms) - len(decomposition.terms[:max_terms])
    if left_out:
        console.print(Text(f"and {left_out} more", "dim"))


def marked(prompt: Prompt, width: int, bracket: bool = False) -> Text:
    """The end of a prompt on a line of ``width``, its token marked.

    Bold and underlined, so that it shows without colour too, or in brackets, which a file keeps.
    """
    token = excerpt(prompt, 0, 0).token
    room = max(0, width - cell_len(token) - AFTER - len("[……]"))
    before, token, after = excerpt(prompt, room, AFTER)
    return Text.assemble((before, "dim"), (f"[{token}]" if bracket else token, "bold underline yellow"), (after, "dim"))
