"""Check that a checkpoint belongs to the fit being resumed: only then does it end as if it had never stopped."""

from collections.abc import Mapping
from typing import Any

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.errors import InputError

# Changes the speed, not the result.
FREE = {"memory_budget"}


def fit_identity(fit: Mapping[str, Any], data: ActivationsDataModule) -> dict[str, Any]:
    """Return everything that decides the activations, their order, and how atoms are chosen from them.

    Paths and the language model's batch size are left out: a model or a cache may have been moved.
    """
    return {
        **{f"model.{key}": value for key, value in fit.items() if key not in FREE},
        **{f"data.{key}": value for key, value in data.identity._asdict().items()},
        "data.batch_size": data.hparams["batch_size"],
    }


def refuse_another_fit(saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Raise InputError with every difference between the identity in a checkpoint and that of this fit."""
    different = [
        f"{key}: {saved.get(key)!r} there, {value!r} here" for key, value in current.items() if value != saved.get(key)
    ]
    if different:
        raise InputError(f"the checkpoint is of another fit ({'; '.join(different)}): resume with its own config.yaml")
