"""Command: compare models layer by layer on the same tokens (``python -m itda_lightning.similarity --help``)."""

import sys
from typing import Any

from jsonargparse import Namespace

from itda_lightning.across_models.similarity_settings import SimilaritySettings
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.fitting.module import ITDA
from itda_lightning.machine.command_line import run_command, start_logging
from itda_lightning.machine.parser import OneLineParser
from itda_lightning.machine.paths import user_path
from itda_lightning.results.model_similarity import ModelSimilarity

RESULTS, PAGE = "similarity.json", "similarity.html"
OF_EACH_MODEL = {"model", "hook_names", "loader", "model_revision", "model_dtype"}


def parse(args: list[str] | None = None) -> tuple[SimilaritySettings, dict[str, Any], dict[str, Any]]:
    """Return the settings, the arguments of the data and those of the fits from the command line and its config.

    Raises:
        InputError: a value out of range. An argument that does not parse ends the process with exit code 2.
    """
    parser = OneLineParser(
        prog="python -m itda_lightning.similarity",
        description="Compare language models layer by layer: by the sources of their ITDAs and by their activations.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        action="config",
        help="A YAML file with any of the options below, e.g. configs/similarity/NAME.yaml.",
    )
    parser.add_class_arguments(ActivationsDataModule, "data", skip=OF_EACH_MODEL, instantiate=False)
    parser.add_class_arguments(ITDA, "fit", instantiate=False)
    parser.add_class_arguments(SimilaritySettings)
    parsed: Namespace = parser.parse_args(args)
    config = parser.instantiate_classes(parsed)
    settings = SimilaritySettings(**{name: config[name] for name in SimilaritySettings.__dataclass_fields__})
    return settings, parsed.data.as_dict(), parsed.fit.as_dict()


def main(args: list[str] | None = None) -> ModelSimilarity:
    """Parse the command line, compare the models, write the results and the page, print tables."""
    start_logging()
    settings, data, fit = parse(args)
    # After parsing, as in every command: what does the work takes seconds to import.
    from itda_lightning.across_models.similarity_study import compare_models
    from itda_lightning.report.pages.model_pages import write_similarity
    from itda_lightning.report.terminal import print_similarity
    from itda_lightning.report.wandb_log import log_similarity
    from itda_lightning.results.as_json import write_results

    results = compare_models(settings, data, fit)
    directory = user_path(settings.directory)
    write_results(directory / RESULTS, results)
    write_similarity(results, directory / PAGE)
    print_similarity(results)
    if settings.wandb_project is not None:
        log_similarity(results, settings.wandb_project, directory)
    sys.stdout.write(f"page: {(directory / PAGE).resolve()}\n")
    return results


if __name__ == "__main__":
    run_command(main)
