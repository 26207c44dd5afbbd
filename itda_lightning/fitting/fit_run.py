"""Run one fit from its settings to its run directory: grow, refine, validate, save."""

import errno
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.errors import InputError
from itda_lightning.fitting.arguments import check_sizes
from itda_lightning.fitting.checkpoint_io import SafetensorsCheckpointIO
from itda_lightning.fitting.growing_and_refining import grow_and_refine
from itda_lightning.fitting.module import ITDA
from itda_lightning.fitting.refinement import RefinementSettings
from itda_lightning.fitting.run_directory import (
    CHECKPOINTS,
    CONFIG,
    DICTIONARIES,
    LOG,
    METRICS,
    SIGNED,
    RunSettings,
    logged,
    removed_if_nothing_began,
)
from itda_lightning.fitting.strategy import check_strategy
from itda_lightning.fitting.trainer import StopWhenDone, end_on_sigterm
from itda_lightning.fitting.trainer_options import check_sees_data, refusals_of_trainer
from itda_lightning.fitting.wandb_logger import log_dictionary, make_wandb_logger
from itda_lightning.machine.atomic_files import write_json, write_text
from itda_lightning.machine.checksums import CHECKSUMS, write_checksums
from itda_lightning.machine.command_line import Terminated
from itda_lightning.machine.digests import file_checksum
from itda_lightning.machine.paths import text_without_home
from itda_lightning.machine.processes import together
from itda_lightning.machine.versions import versions_and_hardware

logger = logging.getLogger(__name__)

# Lightning warns of these, which are intended here.
EXPECTED_WARNINGS = (
    "Using ModelCheckpoint with manual optimization",
    ".*configure_optimizers. returned .None.",
    ".*treespec, LeafSpec",
    "Checkpoint directory .* exists and is not empty",
    "Experiment logs directory .* exists and is not empty",
    "The dirpath has changed",
    # All processes see the same batches and log the same figures.
    ".*recommended to use .self.log.*sync_dist=True",
)


def fit_run(
    trainer: L.Trainer,
    module: ITDA,
    data: ActivationsDataModule,
    run: RunSettings,
    refinement: RefinementSettings | None = None,
    *,
    ckpt_path: str | None = None,
    config: str = "",
) -> tuple[Path, dict[str, dict[str, float | int]]]:
    """Check everything, then fit and write the run directory, which the first of several processes does.

    Args:
        trainer: made by LightningCLI; gets the checkpoints, the stopping rule and the loggers of this run.
        refinement: how the atoms are refined after growth; None for not at all.
        ckpt_path: checkpoint to resume from, "last" for the newest of this run, which starts if it has none yet.
        config: text of config.yaml.

    Returns:
        The run directory, and hook point -> figures of its dictionary, empty in all processes but the first.

    Raises:
        InputError: settings, data, model or checkpoint that do not fit; nothing has been written then. Later: a full
            disk, a budget too small for the atoms, or another process that ended or froze.
        KeyboardInterrupt, Terminated: the fit was interrupted; it can be resumed from its last checkpoint. Without one
            nothing of it is left.
    """
    for message in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    check_strategy(trainer)
    if refinement is not None:
        refinement.check(data)
    checkpoint = run.checkpoint(ckpt_path)
    check_sees_data(trainer, data)  # packs the rows of both splits
    check_sizes(module.hparams, data.widths)  # loads the model, unless the cache is complete; checks the hook points
    if not trainer.is_global_zero:
        _equip(trainer, run, None)
        with together():
            _fit(trainer, module, data, checkpoint, refinement, run.checkpoint_every)
            return trainer.strategy.broadcast(Path()), {}
    directory = run.make_directory(resumed=ckpt_path is not None)
    try:
        with removed_if_nothing_began(directory), logged(directory), _explained(directory), together():
            (directory / CHECKSUMS).unlink(missing_ok=True)
            write_text(directory / CONFIG, text_without_home(config))
            write_json(directory / "versions.json", versions_and_hardware(), ())
            logger.info("run directory: %s", directory)
            if trainer.world_size > 1:
                sys.stderr.write(f"the fit runs in {trainer.world_size} processes\n")
            _equip(trainer, run, directory)
            start = time.perf_counter()
            refining = _fit(trainer, module, data, checkpoint, refinement, run.checkpoint_every)
            seconds = {
                "harvest": data.harvest_seconds,
                "growth": module.growth_seconds,
                "refinement": refining,
                "all": time.perf_counter() - start,
                "harvest_tokens": data.harvested_tokens,
                "growth_activations": module.growth_activations,
            }
            trainer.strategy.broadcast(directory)  # the others need not wait for what follows
            metrics = _write(trainer, module, directory, seconds)
    finally:
        for wandb_logger in _wandb_loggers(trainer):
            wandb_logger.experiment.finish()
    # The dictionaries and checkpoints have digests of their own.
    files = [directory / name for name in (*SIGNED, LOG) if (directory / name).exists()]
    write_checksums(directory, {file.name: file_checksum(file) for file in files})
    return directory, metrics


@contextmanager
def _explained(directory: Path) -> Iterator[None]:
    """Turn a full disk, wherever a library finds it, into an InputError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"no space left while writing the run directory {directory}: free some space; what was written before is "
            "whole, and --ckpt_path last resumes the run"
        ) from error


def _fit(
    trainer: L.Trainer,
    module: ITDA,
    data: ActivationsDataModule,
    checkpoint: str | None,
    refinement: RefinementSettings | None,
    checkpoint_every: int,
) -> float:
    """Fit with checkpoints of the refinement, and say how to resume if it is ended; return its seconds."""
    callback = trainer.checkpoint_callback
    assert isinstance(callback, ModelCheckpoint)

    def save() -> None:
        trainer.save_checkpoint(Path(str(callback.dirpath)) / "refinement.ckpt")

    try:
        with refusals_of_trainer():
            return grow_and_refine(trainer, module, data, refinement, checkpoint, save, checkpoint_every)
    except Terminated:
        logger.info("terminated: --ckpt_path last resumes from the last checkpoint of this run")
        raise
    except (SystemExit, KeyboardInterrupt) as error:  # Lightning turns an interrupt from the keyboard into an exit
        logger.info("interrupted: --ckpt_path last resumes from the last checkpoint of this run")
        raise KeyboardInterrupt from error


def _write(
    trainer: L.Trainer, module: ITDA, directory: Path, seconds: dict[str, float | int]
) -> dict[str, dict[str, float | int]]:
    """Save the dictionaries and the metrics, log the times, and return the metrics of every hook point."""
    metrics = {hook: module.results(hook) for hook in module.hook_names}
    for hook in module.hook_names:
        dictionary = module.finished_dictionary(hook)
        dictionary.save(directory / DICTIONARIES / hook)
        for wandb_logger in _wandb_loggers(trainer):
            log_dictionary(wandb_logger, dictionary, directory / DICTIONARIES / hook)
    write_json(directory / METRICS, {"hook_points": metrics, "seconds": seconds}, ())
    tokens, grown = seconds["harvest_tokens"], seconds["growth_activations"]
    logger.info(
        "harvest: %.1f s (%s); growth: %.1f s (%s); refinement: %.1f s; all: %.1f s",
        seconds["harvest"],
        f"{tokens / seconds['harvest']:,.0f} tokens/s" if tokens else "from the cache",
        seconds["growth"],
        f"{grown / max(seconds['growth'], 1e-9):,.0f} activations/s" if grown else "finished before",
        seconds["refinement"],
        seconds["all"],
    )
    logger.info("run directory: %s", directory)
    return metrics


def _equip(trainer: Any, run: RunSettings, directory: Path | None) -> None:
    """Give the trainer this run's checkpoints and stopping rule and, in the first process, its loggers."""
    if directory is not None:
        loggers: list[Any] = [CSVLogger(directory, name="", version="")]
        if run.wandb_project is not None and (wandb_logger := make_wandb_logger(run.wandb_project, directory)):
            loggers.append(wandb_logger)
        trainer.loggers = [*trainer.loggers, *loggers]
    end_on_sigterm(trainer)
    trainer.strategy.checkpoint_io = SafetensorsCheckpointIO()
    trainer.val_check_interval = trainer.val_check_batch = run.validate_every
    checkpoints = ModelCheckpoint(
        directory / CHECKPOINTS if directory is not None else None,  # broadcast by the first process
        filename="step{step}",
        auto_insert_metric_name=False,
        save_last=True,
        every_n_train_steps=run.checkpoint_every,
    )
    # Lightning keeps checkpoint callbacks last, so that they save the state after all others.
    others = [callback for callback in trainer.callbacks if not isinstance(callback, ModelCheckpoint)]
    trainer.callbacks = [*others, StopWhenDone(run.patience), checkpoints]


def _wandb_loggers(trainer: L.Trainer) -> list[WandbLogger]:
    return [candidate for candidate in trainer.loggers if isinstance(candidate, WandbLogger)]
