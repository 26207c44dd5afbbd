"""A comparison of models as tables on the terminal. Text from data is never read as markup."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from itda_lightning.report.words.excerpt import visible
from itda_lightning.report.words.similarity_words import (
    measure_words,
    noise_floor,
    show_accuracy,
    show_known,
    show_overlap,
    size_line,
)
from itda_lightning.report.words.wording import show_number, show_seconds
from itda_lightning.results.model_similarity import ModelSimilarity


def print_similarity(results: ModelSimilarity, console: Console | None = None) -> None:
    """Print how well each measure matches layers, how alike whole models are, and how far order alone takes two fits apart."""
    console = console or Console()
    table = Table(title=Text(visible(results.title)), box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("measure")
    for heading in ("layers matched", "with self-pairs", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    for measured in results.measured:
        cells = [show_accuracy(measured), show_known(measured.paper_accuracy), show_seconds(measured.seconds)]
        table.add_row(Text(measure_words(measured.measure)[0]), *map(Text, cells))
    console.print(table)
    for pair in results.whole_models:
        console.print(
            Text.assemble(
                (f"{visible(pair.first)} and {visible(pair.second)}", "bold"),
                f", all layers together: Jaccard index {show_overlap(pair.overlap, 'jaccard')}, "
                f"by chance {show_number(pair.overlap.expected)}, over chance {show_overlap(pair.overlap)}",
            )
        )
    for line in (size_line(results), noise_floor(results)):
        if line:
            console.print(Text(line, "dim"))
