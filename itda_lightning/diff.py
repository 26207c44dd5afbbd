"""Command: compare two models by their dictionaries, atom by atom (``python -m itda_lightning.diff --help``)."""

import sys

from itda_lightning.machine.checks import check_at_least
from itda_lightning.machine.command_line import run_command, run_function
from itda_lightning.machine.paths import user_path

RESULTS, PAGE = "difference.json", "difference.html"


def diff_command(
    base: str,
    other: str,
    output: str,
    hook_name: str | None = None,
    other_hook_name: str | None = None,
    device: str = "auto",
    shown: int = 500,
) -> None:
    """Rank the atoms of each of two models' dictionaries by how much worse the other model's dictionary explains them.

    The prompt of every atom's source runs through both models. The score of an atom of A is (share of A's activation
    that B's dictionary leaves unexplained) - (share of B's own activation at the same token that B's dictionary leaves
    unexplained): 0 for every atom if A and B are the same model. OUTPUT becomes a directory with all figures of both
    directions in difference.json and a page.

    Args:
        base: a run directory, a checkpoint, or a saved or exported dictionary, with sources.
        other: a dictionary of another model (a fine-tune, another checkpoint) on the same documents.
        output: the directory to make; one that a killed run of the same command left is taken up again.
        hook_name: hook point of the base's dictionary, if there are several.
        other_hook_name: hook point of the other's dictionary; by default hook_name.
        device: device of the language models: auto, cpu, cuda or cuda:N.
        shown: atoms on the page from either end of each ranking; difference.json has all.
    """
    check_at_least(1, {"--shown": shown})
    user_path(output, "--output")

    # After parsing, as in every command: what does the work takes seconds to import.
    from itda_lightning.across_models.diffing import Side, check_sides, diff
    from itda_lightning.fitting.run_directory import result_directory
    from itda_lightning.report.pages.model_pages import write_difference_page
    from itda_lightning.report.terminal import print_difference
    from itda_lightning.results.as_json import write_results

    sides = (
        Side.load("base", base, hook_name, device),
        Side.load("other", other, other_hook_name or hook_name, device),
    )
    check_sides(*sides)
    compared = {"diff": [base, other], "hook_names": [side.hook_name for side in sides]}
    with result_directory(output, compared) as directory:
        difference = diff(*sides)
        write_results(directory / RESULTS, difference)
        write_difference_page(difference, directory / PAGE, shown)
    print_difference(difference)
    sys.stdout.write(f"page: {(directory / PAGE).resolve()}\n")


def main(args: list[str] | None = None) -> None:
    """Parse the command line and run the command."""
    run_function(diff_command, "diff", args)


if __name__ == "__main__":
    run_command(main)
