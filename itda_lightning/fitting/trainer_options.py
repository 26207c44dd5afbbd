"""Options of Lightning's trainer: their defaults, and those that a fit cannot follow."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.errors import InputError
from itda_lightning.machine.checks import check_seed

TRAINER_DEFAULTS: dict[str, Any] = {
    "max_epochs": 1,
    "accelerator": "auto",
    "devices": 1,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 10,
    "enable_model_summary": False,
    "logger": False,
    "check_val_every_n_epoch": None,
}


def accelerator_of(name: str) -> str:
    """Return the accelerator of a fit: for "auto" a CUDA device, or the CPU; Apple's GPUs have no float64."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


# Processes on one machine beyond which a number is a mistake: each loads the language model.
MOST_DEVICES = 32

# Option -> the values that a fit can follow, and why no others.
ONLY: dict[str, tuple[tuple[Any, ...], str]] = {
    "precision": (
        (None, 32, "32", "32-true"),
        "codes are in single precision; model.atoms_dtype halves atoms",
    ),
    "accumulate_grad_batches": ((1,), "there are no gradients; data.batch_size is the size of a step"),
    "gradient_clip_val": ((None,), "there are no gradients to clip"),
    "gradient_clip_algorithm": ((None,), "there are no gradients to clip"),
    "fast_dev_run": ((False, 0), "a small fit is one of few data.training_tokens"),
    "overfit_batches": ((0, 0.0), "a small fit is one of few data.training_tokens"),
    "check_val_every_n_epoch": ((None, 1), "run.validate_every is the number of steps between validations"),
    "barebones": ((False,), "a run is checkpointed and logged"),
}


def check_options(seed: bool | int, options: Mapping[str, Any]) -> None:
    """Raise InputError for a ``seed_everything`` out of range or a trainer option that a fit cannot follow."""
    check_seed({"seed_everything": None if isinstance(seed, bool) else seed})
    devices = options["devices"]
    if str(devices).isdecimal() and int(devices) > (most := max(MOST_DEVICES, 2 * (os.cpu_count() or 1))):
        raise InputError(f"trainer.devices is the number of processes, at most {most} here, got {devices}")
    for name, (allowed, reason) in ONLY.items():
        if options[name] not in allowed:
            raise InputError(
                f"trainer.{name} of a fit must be {allowed[0]}, got {options[name]!r}: {reason}; leave it out"
            )


def check_sees_data(trainer: Any, data: ActivationsDataModule) -> None:
    """Raise InputError for a trainer with which a fit would see no activations, or validate on none it was told to."""
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]
    limits: dict[str, Any] = {name: getattr(trainer, name) for name in ("max_steps", "max_epochs")}
    if any(left is not None and left <= 0 for left in (timer.time_remaining() for timer in timers)):
        limits["max_time"] = 0
    limits["limit_train_batches"] = trainer.limit_train_batches
    for name, value in limits.items():
        if value == 0:
            raise InputError(
                f"trainer.{name} is 0: the fit would see no activations and its dictionary would be empty; leave it "
                "out, or give at least 1"
            )
    for name, loader in (("train", data.train_dataloader), ("val", data.val_dataloader)):
        share, batches = getattr(trainer, f"limit_{name}_batches"), len(loader())
        if isinstance(share, float) and 0 < share * batches < 1:
            raise InputError(
                f"trainer.limit_{name}_batches {share:g} of {batches:,} batches is less than one: give at least "
                f"{1 / batches:.2g}, or the number of batches"
            )


@contextmanager
def refusals_of_trainer() -> Iterator[None]:
    """Turn what Lightning finds wrong in the trainer's options while it runs into an InputError."""
    try:
        yield
    except MisconfigurationException as error:
        raise InputError(f"the trainer refuses its options: {error}; leave out the option that it names") from error


@contextmanager
def making_trainer() -> Iterator[None]:
    """Turn whatever Lightning says of its trainer's options into an InputError: all of them are the user's."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"the trainer cannot be made: {type(error).__name__}: {error}; fix trainer.accelerator, trainer.devices, "
            "trainer.strategy or the option that it names"
        ) from error
