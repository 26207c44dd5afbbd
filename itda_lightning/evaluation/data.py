"""The data that a dictionary is looked at with: that of its own fit, or of a config."""

from pathlib import Path
from typing import Any

import yaml

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.dictionary import Dictionary
from itda_lightning.errors import InputError


def data_for(
    dictionary: Dictionary | None,
    config: str | None,
    hook_name: str,
    device: str = "auto",
    validation_tokens: int | None = None,
) -> ActivationsDataModule:
    """A DataModule for one hook point.

    Args:
        dictionary: the dictionary, whose metadata hold the settings of its fit; None for an SAE of another kind.
        config: a fit config whose ``data`` section is used instead.
        hook_name: the hook point that must be among those read.
        device: where the language model runs.
        validation_tokens: held-out tokens; None for those of the settings.

    Raises:
        InputError: neither settings nor config; a config without a data section or of another model.
    """
    settings = (dictionary.metadata.get("data") if dictionary is not None else None) or None
    if config is not None:
        chosen = _read(Path(config))
        if settings is not None and chosen.get("model") != settings["model"]:
            raise InputError(
                f"the dictionary was fitted on the model {settings['model']!r} but {config} names {chosen.get('model')!r}"
            )
        settings = chosen
    if settings is None:
        raise InputError(
            "nothing says which model and documents to evaluate on: give --config, a fit config whose data section does"
        )
    # The hook points of the fit together are what its cache is valid for.
    hook_names = settings.get("hook_names") or []
    changes: dict[str, Any] = {
        "hook_names": hook_names if hook_name in hook_names else [hook_name],
        "device": device,
    }
    if validation_tokens is not None:
        changes["validation_tokens"] = validation_tokens
    try:
        return ActivationsDataModule(**{**settings, **changes})
    except TypeError as error:
        raise InputError(f"the data section is not complete or has unknown keys: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot read the config {path}: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("data"), dict):
        raise InputError(f"{path} has no data section: give a config of itda_lightning.fit")
    return content["data"]
