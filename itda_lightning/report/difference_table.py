"""A difference of two models on the terminal: the atoms at the top of each ranking. Text from data is never read as markup."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from itda_lightning.report.terminal import marked
from itda_lightning.report.words.excerpt import visible
from itda_lightning.report.words.wording import show_coefficient, show_number, show_share
from itda_lightning.results.difference import Difference, Direction

SHOWN = 10
# What the columns beside the prompt take of a line.
COLUMNS = 40


def print_difference(difference: Difference, console: Console | None = None) -> None:
    """Print for each direction how many atoms were read, and those that the other model's dictionary explains least."""
    console = console or Console()
    console.print(Text(visible(difference.title), "bold"))
    for direction in difference.directions:
        console.print(_table(direction, console))
        console.print(Text(visible(summary(direction)), "dim"))


def summary(direction: Direction) -> str:
    """What a ranking is of, in words."""
    common = sum(atom.common for atom in direction.atoms)
    words = (
        f"{show_number(len(direction.atoms))} of {show_number(direction.n_atoms)} atoms of {direction.owner} were read by "
        f"{direction.reader}, {show_number(common)} of them with a source that is an atom of both"
    )
    for count, what in (
        (direction.unaligned, "have no token of their own there"),
        (direction.unusable, "have no usable activation"),
    ):
        words += f"; {show_number(count)} {what}" if count else ""
    return f"{words}."


def _table(direction: Direction, console: Console) -> Table:
    table = Table(
        title=Text(f"Atoms of {direction.owner}, read by {direction.reader}"), box=box.SIMPLE_HEAD, pad_edge=False
    )
    for heading in ("atom", "excess", "own", "other's"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("the atom's prompt")
    for atom in direction.atoms[:SHOWN]:
        own = "" if atom.unexplained_own is None else show_share(atom.unexplained_own)
        prompt = marked(atom.prompt, console.width - COLUMNS, bracket=not console.is_terminal)
        table.add_row(str(atom.atom), show_coefficient(100 * atom.excess), own, show_share(atom.unexplained), prompt)
    return table
