"""Command: fit an ITDA and write a run directory (``python -m itda_lightning.fit --config configs/NAME.yaml``)."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.fitting.arguments import COMMAND_DEFAULTS, REFINE_HELP, RESUME_HELP
from itda_lightning.fitting.fit_parser import FitParser
from itda_lightning.fitting.module import ITDA
from itda_lightning.fitting.refinement import RefinementSettings
from itda_lightning.fitting.run_directory import RunSettings
from itda_lightning.fitting.strategy import Replicated
from itda_lightning.fitting.trainer_options import TRAINER_DEFAULTS, accelerator_of, check_options, making_trainer
from itda_lightning.machine.command_line import run_command, start_logging


class FitCLI(LightningCLI):
    """LightningCLI with a ``run`` group; trainer, model and data are as in any LightningCLI."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of the run itself."""
        parser.add_class_arguments(RunSettings, "run")
        parser.add_argument("--refine", type=RefinementSettings | None, default=RefinementSettings(), help=REFINE_HELP)
        parser.add_argument("--ckpt_path", type=str | None, default=None, help=RESUME_HELP)
        parser.set_defaults(COMMAND_DEFAULTS)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and check the options of Lightning before anything is made of them."""
        super().parse_arguments(parser, args)
        check_options(self.config.seed_everything, self.config.trainer.as_dict())

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Make the trainer, for several processes with the strategy that a fit needs."""
        options = self.config_init["trainer"]
        if isinstance(options.accelerator, str):
            kwargs["accelerator"] = accelerator_of(options.accelerator)
        if options.strategy == "auto" and (options.num_nodes > 1 or str(options.devices) not in ("1", "[0]")):
            kwargs["strategy"] = Replicated()
        with making_trainer():
            return super().instantiate_trainer(**kwargs)


def parse(args: list[str] | None = None) -> FitCLI:
    """Parse and check the command line (None: this process's); make the trainer, the module and the data."""
    return FitCLI(
        ITDA,
        ActivationsDataModule,
        run=False,
        save_config_callback=None,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        parser_class=FitParser,
        parser_kwargs={
            "description": "Fit an ITDA and write a run directory.",
            "prog": "python -m itda_lightning.fit",
            "usage": "python -m itda_lightning.fit [--config CONFIG] [--OPTION VALUE ...]",
            "allow_abbrev": False,  # or a mistyped name is taken for the beginning of another
        },
        trainer_defaults=TRAINER_DEFAULTS,
        args=args,
    )


def main(args: list[str] | None = None) -> Path:
    """Fit, print the figures of every hook point, and return the run directory."""
    start_logging(logging.WARNING)
    cli = parse(args)
    # After parsing, as in every command: what does the work takes seconds to import.
    from itda_lightning.fitting.fit_run import fit_run
    from itda_lightning.report.terminal import print_metrics

    if cli.trainer.is_global_zero:
        start_logging()
    options, config = cli.config_init, cli.parser.dump(cli.config, skip_none=False)
    content = config if isinstance(config, str) else json.dumps(config)
    made = cli.trainer, cli.model, cli.datamodule, options["run"], options["refine"]
    directory, figures = fit_run(*made, ckpt_path=options["ckpt_path"], config=content)
    for hook, metrics in figures.items():
        sys.stdout.write(f"\n{hook}\n")
        print_metrics(metrics)
    if figures:
        sys.stdout.write(f"next, with --dictionary {directory}: itda evaluate, page, decompose --text ..., export\n")
    return directory


if __name__ == "__main__":
    run_command(main)
else:  # il.fit is this module
    from itda_lightning.fitting.from_python import CallableModule

    sys.modules[__name__].__class__ = CallableModule
    __doc__ = f"{__doc__}\n\nAs a function, il.fit(model, hook_name, texts, ...):\n\n{CallableModule.__call__.__doc__}"
