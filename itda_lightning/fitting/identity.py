"""Whether a checkpoint is of the very fit that is to go on: only then does it end as if it had never stopped."""

from collections.abc import Mapping
from typing import Any

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.errors import InputError

# What decides how fast the codes come, not what they are.
FREE = {"memory_budget"}


def fit_identity(fit: Mapping[str, Any], data: ActivationsDataModule) -> dict[str, Any]:
    """All that decides which activations come in which order, and what is done with them.

    Paths and batches of the language model are no part of it: a model or a cache may have moved since.
    """
    return {
        **{f"model.{key}": value for key, value in fit.items() if key not in FREE},
        **{f"data.{key}": value for key, value in data.identity._asdict().items()},
        "data.batch_size": data.hparams["batch_size"],
    }


def refuse_another_fit(saved: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Raises InputError that names every difference between the identity in a checkpoint and this fit's."""
    different = [
        f"{key}: {saved.get(key)!r} there, {value!r} here" for key, value in mine.items() if value != saved.get(key)
    ]
    if different:
        raise InputError(f"the checkpoint is of another fit ({'; '.join(different)}): resume with its own config.yaml")
