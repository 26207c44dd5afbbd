"""Command: write activations into the cache that fits read (``python -m itda_lightning.harvest --help``)."""

import logging
import sys
from typing import Any

from jsonargparse import SUPPRESS

from itda_lightning.activations.backends.harvest_plan import HarvestSettings
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.machine.command_line import run_command, start_logging
from itda_lightning.machine.parser import OneLineParser
from itda_lightning.machine.processes import group_of_torchrun, rank

# Sections of a fit's config other than its data, so that one file serves both commands.
OF_A_FIT = ("model", "run", "trainer", "refine", "seed_everything", "ckpt_path")


def parse(args: list[str] | None = None) -> tuple[HarvestSettings, ActivationsDataModule]:
    """Return the settings and the data that the command line and the config describe; nothing is loaded yet.

    Raises:
        InputError: a value out of range. What does not parse ends the process with exit code 2.
    """
    parser = OneLineParser(
        prog="python -m itda_lightning.harvest",
        description="Write the activations that a fit with the same data section reads.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", action="config", help="A fit's config, or a file with its data section and what follows."
    )
    parser.add_class_arguments(ActivationsDataModule, "data")
    parser.add_class_arguments(HarvestSettings)
    for section in OF_A_FIT:
        parser.add_argument(f"--{section}", type=Any, default=None, help=SUPPRESS)
    config = parser.instantiate_classes(parser.parse_args(args))
    return HarvestSettings(**{name: config[name] for name in HarvestSettings.__dataclass_fields__}), config.data


def main(args: list[str] | None = None) -> None:
    """Harvest, and print where the activations are."""
    settings, data = parse(args)
    # After parsing, as in every command: what does the work takes seconds to import.
    from itda_lightning.activations.backends.harvest_run import harvest

    with group_of_torchrun():
        start_logging(logging.INFO if rank() == 0 else logging.WARNING)
        tokens = harvest(settings, data)
        cache = data.cache("train")
        assert cache is not None
        if rank() == 0:
            sys.stdout.write(f"{tokens:,} tokens harvested; cache: {cache.path}\n")


if __name__ == "__main__":
    run_command(main)
