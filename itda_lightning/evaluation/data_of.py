"""The data on which a dictionary is evaluated: those of its own fit, or of a config."""

import logging
from pathlib import Path
from typing import Any

import yaml

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.models.language_model import LanguageModelName
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.sources import Source
from itda_lightning.errors import InputError

logger = logging.getLogger(__name__)


def data_for(
    dictionary: Dictionary | None,
    config: str | None,
    hook_name: str,
    device: str = "auto",
    validation_tokens: int = 0,
) -> ActivationsDataModule:
    """Make the DataModule for one hook point.

    Args:
        dictionary: the dictionary, whose metadata hold the settings of its fit; None for an SAE of another kind.
        config: path of a fit config whose ``data`` section is used instead.
        hook_name: the hook point to read.
        device: device of the language model.
        validation_tokens: least number of held-out tokens.

    Raises:
        InputError: neither settings nor config; a config without a data section or of another model.
    """
    settings = (dictionary.metadata.get("data") if dictionary is not None else None) or None
    if config is not None:
        replacement = _read(Path(config).expanduser())
        if settings is not None:
            _check_same_model(settings, replacement, config)
        settings = replacement
    if settings is None:
        raise InputError(
            "nothing says which model and documents to use: give --data_config, a fit config with a data section"
        )
    # A cache is valid for the hook points of its fit together.
    hook_names = settings.get("hook_names") or []
    hook_names = hook_names if hook_name in hook_names else [hook_name]
    settings = {**settings, "hook_names": hook_names, "device": device}
    try:
        data = ActivationsDataModule(**settings)
        if data.hparams["validation_tokens"] < validation_tokens:
            data = ActivationsDataModule(**{**settings, "validation_tokens": validation_tokens})
    except TypeError as error:
        raise InputError(f"the data section lacks a setting or has an unknown one: {error}") from error
    return data


def hook_point(dictionary: Dictionary, hook_name: str | None, name: str) -> str:
    """Return the hook point of a dictionary: its own, or the one given. Raises InputError if there is neither."""
    hook: str | None = dictionary.metadata.get("hook_name") or hook_name
    if hook is None:
        raise InputError(f"{name} does not name its hook point: give --hook_name")
    return hook


def add_prompts(dictionary: Dictionary, data: ActivationsDataModule) -> None:
    """Give a dictionary of a checkpoint, whose sources have no text, its prompts if ``data`` are those of its fit."""
    if dictionary.prompts is not None or dictionary.sources is None:
        return
    rows, table = data.rows("train"), dictionary.source_table.cpu()
    if rows.dataset == dictionary.dataset and rows.hold(table):
        dictionary.prompts = tuple(rows.prompt(Source(*source)) for source in table.tolist())


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot read the config {path}: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("data"), dict):
        raise InputError(f"{path} has no data section: give a config of itda_lightning.fit")
    data: dict[str, Any] = content["data"]
    if not isinstance(data.get("model"), str):
        raise InputError(f"the data section of {path} names no model: give data.model")
    return data


def _check_same_model(fit: dict[str, Any], replacement: dict[str, Any], config: str) -> None:
    """Raise InputError for another model; files count, since a model that was moved or copied has another name."""
    names = fit.get("model"), replacement["model"]
    revisions = fit.get("model_revision"), replacement.get("model_revision")
    if names[0] == names[1] and revisions[0] == revisions[1]:
        return
    here, there = (_fingerprint(name, revision) for name, revision in zip(names, revisions, strict=True))
    if here is None or there is None or ("@" in here) != ("@" in there):
        logger.warning(
            "the dictionary was fitted on the model %r, %s names %r: whether they are the same is unknown",
            names[0],
            config,
            names[1],
        )
    elif here != there:
        raise InputError(
            f"the dictionary was fitted on the model {names[0]!r} but {config} names another, {names[1]!r}: "
            "name the model of the fit"
        )


def _fingerprint(name: str | None, revision: str | None) -> str | None:
    """Return the fingerprint of a model, None if it is no longer available."""
    try:
        return None if name is None else LanguageModelName(name, revision=revision).fingerprint()
    except InputError:
        return None
