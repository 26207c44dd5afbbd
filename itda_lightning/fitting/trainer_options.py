"""Options of Lightning's trainer: their defaults, and those that a fit cannot follow."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from itda_lightning.errors import InputError
from itda_lightning.machine.checks import check_seed

TRAINER_DEFAULTS: dict[str, Any] = {
    "max_epochs": 1,
    "accelerator": "cuda" if torch.cuda.is_available() else "cpu",  # Apple's GPUs have no float64
    "devices": 1,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 10,
    "enable_model_summary": False,
    "logger": False,
    "check_val_every_n_epoch": None,
}

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
