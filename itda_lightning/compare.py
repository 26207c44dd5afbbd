"""Command: ITDAs beside SAEs on the same held-out tokens (``python -m itda_lightning.compare --help``)."""

import sys
from typing import Any

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.comparison.comparison_settings import ComparisonSettings
from itda_lightning.machine.command_line import run_command, start_logging
from itda_lightning.machine.parser import OneLineParser
from itda_lightning.machine.paths import user_path

PAGE = "comparison.html"
SOME_FAILED = 1


# What must be given, and what stands for it while it is not.
MISSING = {"data.model": "", "data.hook_names": [], "data.dataset": "", "entries": [], "directory": ""}
DATA = ("data.model", "data.hook_names", "data.dataset")


def parse(args: list[str] | None = None) -> tuple[ComparisonSettings, ActivationsDataModule]:
    """Parse the command line and the config; of the places given, those are loaded that may record the data.

    Raises:
        InputError: a value out of range, or as ``entries_of`` and ``recorded_data``. An option that does not parse ends
            the process with exit code 2.
    """
    parser = _parser()
    parser.set_defaults(MISSING)
    given = parser.parse_args(args)
    # After parsing, as in every command: what does the work takes seconds to import.
    from itda_lightning.comparison.given_places import directory_of, entries_of, recorded_data
    from itda_lightning.evaluation.data_of import own_cache

    parser, entries, own = _parser(), entries_of(given.places), None
    if entries:
        defaults: dict[str, Any] = {"entries": [], "directory": directory_of(entries)}
        if not all(given[name] for name in DATA):
            recorded = recorded_data(given.places, given.data.hook_names)
            defaults |= {f"data.{name}": value for name, value in recorded.items()}
            own = own_cache()
        parser.set_defaults(defaults)
    config = parser.instantiate_classes(parser.parse_args(args))
    settings = {name: config[name] for name in ComparisonSettings.__dataclass_fields__}
    config.data.own_cache_dir = own if given.data.cache_dir is None else None
    return ComparisonSettings(**settings | {"entries": [*entries, *config.entries]}), config.data


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="python -m itda_lightning.compare",
        description="Compare ITDAs with SAEs, and with controls, on the same held-out tokens.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "places",
        nargs="*",
        help="Runs, dictionaries or SAEs, by path, hf://owner/name or release:sae_id, before any option. Model and "
        "text are those of the first that records them, unless they are given.",
    )
    parser.add_argument("--config", action="config", help="A file of these settings, e.g. configs/compare/NAME.yaml.")
    parser.add_class_arguments(ActivationsDataModule, "data")
    parser.add_class_arguments(ComparisonSettings)
    return parser


def main(args: list[str] | None = None) -> int:
    """Parse, compare and print; return the exit code."""
    start_logging()
    settings, data = parse(args)
    from itda_lightning.comparison.side_by_side import compare
    from itda_lightning.report.pages.comparison_page import write_dashboard
    from itda_lightning.report.terminal import print_comparison
    from itda_lightning.report.wandb_log import log_comparison

    directory = user_path(settings.directory)
    page = directory / PAGE
    comparison = compare(settings, data, publish=lambda comparison: write_dashboard(comparison, page))
    print_comparison(comparison)
    if settings.wandb_project is not None:
        log_comparison(comparison, settings.wandb_project, directory)
    reused = [row.name for row in comparison.rows if row.reused]
    failed = [row.name for row in comparison.rows if row.failure is not None]
    if reused:
        sys.stdout.write(f"taken over from an earlier run: {', '.join(reused)}\n")
    if failed:
        sys.stderr.write(f"{len(failed)} of {len(comparison.rows)} entries failed: {', '.join(failed)}\n")
    sys.stdout.write(f"page: {page.resolve()}\n")
    return SOME_FAILED if failed else 0


if __name__ == "__main__":
    run_command(main)
