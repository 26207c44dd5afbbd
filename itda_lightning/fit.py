"""``python -m itda_lightning.fit --config configs/NAME.yaml``: fit an ITDA and write a run directory."""

import json
import logging
import re
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.errors import InputError
from itda_lightning.fitting.checkpoint_io import SafetensorsCheckpointIO
from itda_lightning.fitting.module import ITDA
from itda_lightning.fitting.refinement import RefinementSettings, refine
from itda_lightning.fitting.run_directory import (
    CONFIG,
    DICTIONARIES,
    METRICS,
    logged,
    make_run_directory,
)
from itda_lightning.fitting.strategy import Replicated, check_strategy
from itda_lightning.fitting.trainer import StopWhenDone
from itda_lightning.fitting.wandb_logger import log_dictionary, make_wandb_logger
from itda_lightning.machine.atomic_files import write_json, write_text
from itda_lightning.machine.checks import check_at_least
from itda_lightning.machine.command_line import run_command, start_logging
from itda_lightning.machine.versions import versions_and_hardware
from itda_lightning.report.terminal import print_metrics

logger = logging.getLogger("itda_lightning.fit")


@dataclass(frozen=True)
class RunSettings:
    """Where a run is written and how it is kept.

    Args:
        directory: the run directory, which must not exist unless its fit is resumed: then the run goes on in the first
            free DIRECTORY-resumed-NNN. Null for the first free runs_directory/name-NNN.
        runs_directory: where run directories are made.
        name: name of the run.
        checkpoint_every: steps between checkpoints.
        validate_every: steps between validations on held-out documents.
        patience: steps without a new atom after which the fit ends.
        wandb_project: log to this Weights & Biases project; null for CSV only.
    """

    directory: str | None = None
    runs_directory: str = "runs"
    name: str = "itda"
    checkpoint_every: int = 50
    validate_every: int = 50
    patience: int = 100
    wandb_project: str | None = None

    def __post_init__(self) -> None:
        fields = ("checkpoint_every", "validate_every", "patience")
        check_at_least(1, {f"run.{name}": getattr(self, name) for name in fields})

    def checkpoint(self, ckpt_path: str | None) -> str | None:
        """The checkpoint to resume from. Raises InputError where it is not there."""
        if ckpt_path is None:
            return None
        if ckpt_path != "last":
            if not Path(ckpt_path).is_file():
                raise InputError(f"ckpt_path: there is no checkpoint {ckpt_path}; they lie in a run's checkpoints/")
            return ckpt_path
        directory = self._wanted()
        if directory is None:
            root, whose = Path(self.runs_directory).expanduser(), f"no run named {self.name}"
            pattern = re.compile(re.escape(self.name) + r"-\d{3,}")
        else:
            root, whose = directory.parent, f"neither {directory.name} nor a run that resumed it"
            pattern = re.compile(re.escape(directory.name) + r"(-resumed-\d{3,})?")
        runs = [path for path in root.glob("*") if pattern.fullmatch(path.name)]
        found = [path for run in runs for path in run.glob("checkpoints/*.ckpt")]
        if not found:
            raise InputError(f"ckpt_path=last: {whose} in {root} has a checkpoint; give the path of one instead")
        return str(max(found, key=lambda path: path.stat().st_mtime_ns))

    def make_directory(self, resumed: bool) -> Path:
        """The new directory of this run. Raises InputError like ``make_run_directory``."""
        directory = self._wanted()
        if directory is not None and directory.exists() and resumed:
            return make_run_directory(None, str(directory.parent), f"{directory.name}-resumed")
        return make_run_directory(self.directory, self.runs_directory, self.name)

    def _wanted(self) -> Path | None:
        return Path(self.directory).expanduser().absolute() if self.directory is not None else None


class FitCLI(LightningCLI):
    """LightningCLI with a ``run`` group; trainer, model and data are as in any LightningCLI."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what belongs to a run and not to its parts."""
        parser.add_class_arguments(RunSettings, "run")
        parser.add_argument(
            "--refine",
            type=RefinementSettings | None,
            default=None,
            help="Refine the atoms after growth within cones round their sources, e.g. {anchor: 0.9}; null for not. "
            "Not for comparisons across models.",
        )
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="Resume from this checkpoint, or from the newest one of this run.name with 'last'.",
        )

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """As LightningCLI, and with the strategy that a fit by several processes needs."""
        wanted = self.config_init["trainer"]
        if wanted.strategy == "auto" and (wanted.num_nodes > 1 or str(wanted.devices) not in ("1", "[0]")):
            kwargs["strategy"] = Replicated()
        return super().instantiate_trainer(**kwargs)


# What Lightning says of things that are meant to be so here.
EXPECTED_WARNINGS = (
    "Using ModelCheckpoint with manual optimization",
    ".*configure_optimizers. returned .None.",
    ".*treespec, LeafSpec",
    "Experiment logs directory .* exists and is not empty",
    "The dirpath has changed",
    # All processes see the same batches and log the same figures.
    ".*recommended to use .self.log.*sync_dist=True",
)


def parse(args: list[str] | None = None) -> FitCLI:
    """Parse and check the command line (None: this process's) and make the trainer, the module and the data of it."""
    try:
        return FitCLI(
            ITDA,
            ActivationsDataModule,
            run=False,
            save_config_callback=None,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            parser_kwargs={
                "description": "Fit an ITDA and write a run directory.",
                "prog": "python -m itda_lightning.fit",
                "allow_abbrev": False,  # or a mistyped name is taken for the beginning of another
            },
            trainer_defaults={
                "max_epochs": 1,
                "accelerator": "cuda" if torch.cuda.is_available() else "cpu",  # Apple's GPUs have no float64
                "devices": 1,
                "num_sanity_val_steps": 0,
                "log_every_n_steps": 10,
                "enable_model_summary": False,
                "logger": False,
                "check_val_every_n_epoch": None,
            },
            args=args,
        )
    except (MisconfigurationException, ModuleNotFoundError) as error:
        raise InputError(f"the trainer cannot be made: {error}; fix trainer.accelerator or trainer.devices") from error


def main(args: list[str] | None = None) -> Path:
    """Parse, check, fit, write. Returns the run directory, which the first of several processes makes and writes."""
    start_logging(logging.WARNING)
    for message in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    cli = parse(args)
    run: RunSettings = cli.config_init["run"]
    trainer, module, data = cli.trainer, cli.model, cli.datamodule
    assert isinstance(module, ITDA)
    assert isinstance(data, ActivationsDataModule)
    check_strategy(trainer)
    refinement: RefinementSettings | None = cli.config_init["refine"]
    if refinement is not None:
        refinement.check(data)
    checkpoint = run.checkpoint(cli.config_init["ckpt_path"])
    for split in ("train", "heldout"):
        data.rows(split)
    _ = data.widths  # loads the model, unless the cache is complete, and checks the hook points

    if not trainer.is_global_zero:
        _equip(trainer, run, None)
        _run(trainer, module, data, checkpoint, refinement, run.checkpoint_every)
        return trainer.strategy.broadcast(Path())
    start_logging()
    directory = run.make_directory(resumed=checkpoint is not None)
    try:
        with logged(directory):
            config = cli.parser.dump(cli.config, skip_none=False)
            write_text(directory / CONFIG, config if isinstance(config, str) else json.dumps(config))
            write_json(directory / "versions.json", versions_and_hardware())
            logger.info("run directory: %s", directory)
            _equip(trainer, run, directory)
            start = time.perf_counter()
            refining = _run(trainer, module, data, checkpoint, refinement, run.checkpoint_every)
            seconds = {
                "harvest": data.harvest_seconds,
                "growth": module.growth_seconds,
                "refinement": refining,
                "all": time.perf_counter() - start,
                "harvest_tokens": data.harvested_tokens,
            }
            _write(trainer, module, directory, seconds)
    finally:
        for wandb_logger in trainer.loggers:
            if isinstance(wandb_logger, WandbLogger):
                wandb_logger.experiment.finish()
    return trainer.strategy.broadcast(directory)


def _run(
    trainer: L.Trainer,
    module: ITDA,
    data: ActivationsDataModule,
    checkpoint: str | None,
    refinement: RefinementSettings | None,
    checkpoint_every: int,
) -> float:
    """Fit, refine where that is wanted, and validate; returns the seconds of refinement."""
    refining = 0.0
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
        if not module.refinements:
            trainer.validate(module, datamodule=data, verbose=False)
        if refinement is not None:
            callback = trainer.checkpoint_callback
            assert isinstance(callback, ModelCheckpoint)
            path = Path(str(callback.dirpath)) / "refinement.ckpt"
            refining = refine(module, data, refinement, lambda: trainer.save_checkpoint(path), checkpoint_every)
            trainer.validate(module, datamodule=data, verbose=False)
        elif module.refinements:
            raise InputError("the checkpoint is of a fit that refines its atoms: resume with its own config.yaml")
    except (SystemExit, KeyboardInterrupt) as error:  # Lightning makes an exit of an interrupt from the keyboard
        logger.info("interrupted: --ckpt_path last goes on from the last checkpoint of this run")
        raise KeyboardInterrupt from error
    return refining


def _write(trainer: L.Trainer, module: ITDA, directory: Path, seconds: dict[str, float | int]) -> None:
    """Save the dictionaries and the metrics, and say how it went."""
    results: dict[str, Any] = {}
    for hook in module.hook_names:
        dictionary = module.finished_dictionary(hook)
        dictionary.save(directory / DICTIONARIES / hook)
        results[hook] = module.results(hook)
        for wandb_logger in trainer.loggers:
            if isinstance(wandb_logger, WandbLogger):
                log_dictionary(wandb_logger, dictionary, directory / DICTIONARIES / hook)
    write_json(directory / METRICS, {"hook_points": results, "seconds": seconds})
    for hook, metrics in results.items():
        print(f"\n{hook}")  # noqa: T201
        print_metrics(metrics)
    tokens = seconds["harvest_tokens"]
    rate = f"{tokens / seconds['harvest']:,.0f} tokens/s" if tokens else "from the cache"
    logger.info(
        "harvest: %.1f s (%s); growth: %.1f s (%s activations/s); refinement: %.1f s; all: %.1f s",
        seconds["harvest"],
        rate,
        seconds["growth"],
        f"{int(module.seen) / max(seconds['growth'], 1e-9):,.0f}",
        seconds["refinement"],
        seconds["all"],
    )
    logger.info("run directory: %s", directory)


def _equip(trainer: Any, run: RunSettings, directory: Path | None) -> None:
    """Give the trainer what belongs to this run: checkpoints, the stop, and in the first process the loggers."""
    if directory is not None:
        loggers: list[Any] = [CSVLogger(directory, name="", version="")]
        if run.wandb_project is not None and (wandb_logger := make_wandb_logger(run.wandb_project, directory)):
            loggers.append(wandb_logger)
        trainer.loggers = [*trainer.loggers, *loggers]
    trainer.strategy.checkpoint_io = SafetensorsCheckpointIO()
    trainer.val_check_interval = trainer.val_check_batch = run.validate_every
    checkpoints = ModelCheckpoint(
        directory / "checkpoints" if directory is not None else None,  # the first process tells the others
        filename="step{step}",
        auto_insert_metric_name=False,
        save_last=True,
        every_n_train_steps=run.checkpoint_every,
    )
    # Lightning keeps checkpoint callbacks last, so that what they save is the state after all others.
    others = [callback for callback in trainer.callbacks if not isinstance(callback, ModelCheckpoint)]
    trainer.callbacks = [*others, StopWhenDone(run.patience), checkpoints]


if __name__ == "__main__":
    run_command(main)
