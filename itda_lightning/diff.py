"""Command: two models compared by their dictionaries, atom by atom (``python -m itda_lightning.diff --help``)."""

import sys
from pathlib import Path
from typing import Any

from itda_lightning.across_models.diffing import Side, check_sides, diff
from itda_lightning.evaluation.data_of import data_for, hook_point
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.fitting.run_directory import make_run_directory
from itda_lightning.machine.atomic_files import write_text
from itda_lightning.machine.checks import check_at_least
from itda_lightning.machine.command_line import run_command, run_function
from itda_lightning.machine.versions import versions_and_hardware
from itda_lightning.report.difference_table import print_difference
from itda_lightning.report.pages.difference_page import write_difference_page
from itda_lightning.results.as_json import to_json
from itda_lightning.results.difference import Difference

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
    """Rank the atoms of two models' dictionaries by how much less the other model's dictionary explains them.

    The prompt of every atom's source runs through both models. Both directions are ranked: the base's atoms by the other's
    dictionary and the other way round. OUTPUT becomes a directory with all figures in difference.json and a page.

    Args:
        base: a run directory, a checkpoint, or a saved or exported dictionary, with sources.
        other: a dictionary of another model (a fine-tune, another checkpoint) on the same documents.
        output: the directory to make.
        hook_name: which dictionary of the base, where there are several.
        other_hook_name: which dictionary of the other; by default that of hook_name.
        device: where the language models run: auto, cpu, cuda or cuda:N.
        shown: atoms on the page from either end of each ranking; difference.json has all.
    """
    check_at_least(1, {"--shown": shown})
    sides = (
        _side("base", base, hook_name, device),
        _side("other", other, other_hook_name or hook_name, device),
    )
    check_sides(*sides)
    directory = make_run_directory(output, output, "difference")
    difference = Difference(
        title=f"{_model(sides[0])} and {_model(sides[1])}",
        facts=_facts(*sides),
        directions=diff(*sides),
    )
    write_text(directory / RESULTS, to_json(difference))
    write_difference_page(difference, directory / PAGE, shown)
    print_difference(difference)
    sys.stdout.write(f"page: {(directory / PAGE).resolve()}\n")


def _side(name: str, reference: str, hook_name: str | None, device: str) -> Side:
    dictionary = load_dictionary(reference, hook_name)
    hook = hook_point(dictionary, hook_name, reference)
    return Side(name, dictionary, data_for(dictionary, None, hook, device), hook)


def _model(side: Side) -> str:
    """The model as a heading names it: a directory by its last part."""
    name = side.data.model_name.name
    return f"{Path(name).name if Path(name).expanduser().is_dir() else name} at {side.hook_name}"


def _facts(*sides: Side) -> dict[str, str]:
    facts: dict[str, Any] = {}
    for side in sides:
        model, dictionary = side.data.model_name, side.dictionary
        facts[side.name] = model.name if model.revision is None else f"{model.name} at {model.revision}"
        facts[f"{side.name}: hook point"] = side.hook_name
        facts[f"{side.name}: dictionary"] = f"{dictionary.n_atoms:,} atoms, {dictionary.pursuit}, k = {dictionary.k}"
    versions = versions_and_hardware()
    facts["documents"] = sides[0].data.hparams["dataset"]
    facts["versions"] = ", ".join(f"{name} {versions[name]}" for name in ("itda-lightning", "torch", "transformers"))
    return {name: str(value) for name, value in facts.items()}


def main(args: list[str] | None = None) -> None:
    """Parse the command line and run the command."""
    run_function(diff_command, "diff", args)


if __name__ == "__main__":
    run_command(main)
