"""The data on which a dictionary is evaluated: those of its own fit, or of a config."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_origin, get_type_hints

import yaml
from jaxtyping import Float
from torch import Tensor

from itda_lightning.activations.bundled import cache_directory
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.models.model_name import LanguageModelName
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.sites import Sites
from itda_lightning.errors import InputError
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.machine.parser import load_config
from itda_lightning.machine.paths import user_path
from itda_lightning.machine.schema import check_known
from itda_lightning.machine.single_values import listed

logger = logging.getLogger(__name__)

# The DataModule itself checks choices, and says which there are.
KINDS = {
    name: str if get_origin(kind) is Literal else kind
    for name, kind in get_type_hints(ActivationsDataModule.__init__).items()
    if name != "return"
} | {"hook_names": list[str]}  # as saved, also of one


def data_for(
    dictionary: Dictionary | None,
    config: str | None,
    hook_name: str,
    device: str = "auto",
    validation_tokens: int = 0,
) -> ActivationsDataModule:
    """Make the DataModule for one hook point from the settings of the dictionary's fit, or from those of a fit config.

    ``validation_tokens`` is the least number of held-out tokens. Somebody else may have written the settings of the
    dictionary: a cache that they name is read if it is there, but activations are only written into this user's own.

    Raises:
        InputError: neither settings nor config; a config without a data section or of another model; a setting of
            another type.
    """
    settings = (dictionary.metadata.get("data") if dictionary is not None else None) or None
    if config is not None:
        replacement = _read(user_path(config))
        if settings is not None:
            _check_same_model(settings, replacement, config)
        settings = replacement
    if settings is None:
        raise InputError(
            "nothing says which model and documents to use: give --data_config, a fit config with a data section"
        )
    if "rows" in settings:
        raise InputError(
            "the dictionary was fitted on an array (il.fit_activations), so there is no text to read again: use "
            "dictionary.encode and dictionary.detect on arrays, or give --data_config of a language model's fit"
        )
    check_settings(settings)
    # A cache is valid for the hook points of its fit together.
    hook_names = settings.get("hook_names") or []
    sites = Sites() if dictionary is None else dictionary.sites
    wanted = sites.hook_names or [hook_name]
    hook_names = hook_names if set(wanted) <= set(hook_names) and (not sites or wanted == hook_names) else wanted
    settings = {**settings, "hook_names": hook_names, "device": device, "joint": bool(sites)}
    try:
        data = ActivationsDataModule(**settings)
        if data.hparams["validation_tokens"] < validation_tokens:
            data = ActivationsDataModule(**{**settings, "validation_tokens": validation_tokens})
    except TypeError as error:
        raise InputError(f"the data section lacks a setting or has an unknown one: {error}") from error
    data.own_cache_dir = None if config is not None else own_cache()
    if sites:
        data.sites = sites
    return data


def check_settings(settings: dict[str, Any]) -> None:
    """Raise InputError for a setting of the data that has another type than the argument of its name."""
    check_known(settings, KINDS, "the data section is damaged: ", "give --data_config")


def own_cache() -> Path:
    """Return the directory in which this user's activations are kept if no config names one."""
    return cache_directory() / "activations"


def load_with_data(
    path: str, hook_name: str | None, config: str | None, device: str, joint: bool = False
) -> tuple[Dictionary, str, ActivationsDataModule]:
    """Load a dictionary, its hook point, which is its own or the one given, and its data as ``data_for`` makes them.

    Raises:
        InputError: no hook point, or unless ``joint`` several joint ones, or as ``load_dictionary`` and ``data_for``.
    """
    dictionary = load_dictionary(path, hook_name)
    if not joint:
        dictionary.check_one_site("name one of them by --hook_name")
    hook: str | None = dictionary.metadata.get("hook_name") or hook_name
    if hook is None:
        raise InputError(f"{path} does not name its hook point: give --hook_name")
    return dictionary, hook, data_for(dictionary, config, hook, device)


def stored_heldout(dictionary: Dictionary, config: str | None = None) -> Iterator[Float[Tensor, "batch d"]] | None:
    """Iterate over the held-out activations of a dictionary's data, or of a config's, if a cache on disk has them."""
    hook = str(dictionary.metadata.get("hook_name"))
    try:
        data = data_for(dictionary, config, hook)
        stored = data.stored("heldout")
        if stored is None or stored.widths.get(hook) != dictionary.d_in:
            return None
    except InputError:
        return None
    return (x for x, _ in data.heldout_batches(hook))


def add_prompts(dictionary: Dictionary, data: ActivationsDataModule) -> None:
    """Give a dictionary of a checkpoint, whose sources have no text, its prompts if ``data`` are those of its fit."""
    if dictionary.prompts is not None or dictionary.sources is None:
        return
    rows, table = data.rows("train"), dictionary.source_table.cpu()
    if rows.dataset == dictionary.dataset and rows.hold(table):
        dictionary.prompts = rows.prompts(table)
        if (labels := dictionary.relabelled) is not None:
            dictionary.relabel(labels._replace(prompts=rows.prompts(labels.table)))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = load_config(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot read the config {path}: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("data"), dict):
        raise InputError(f"{path} has no data section: give a config of itda_lightning.fit")
    data: dict[str, Any] = content["data"]
    if not isinstance(data.get("model"), str):
        raise InputError(f"the data section of {path} names no model: give data.model")
    return {name: listed(value, KINDS.get(name)) for name, value in data.items()}


def models_agree(one: LanguageModelName, other: LanguageModelName) -> bool | None:
    """Compare models by name, or by their files if one may have been moved or copied; None if that cannot be told."""
    if (one.name, one.revision) == (other.name, other.revision):
        return True
    try:
        prints = one.fingerprint(), other.fingerprint()
    except InputError:
        return None
    # The commit of one and the files of the other say nothing.
    return prints[0] == prints[1] if ("@" in prints[0]) == ("@" in prints[1]) else None


def _check_same_model(fit: dict[str, Any], replacement: dict[str, Any], config: str) -> None:
    """Raise InputError for another model, and warn if that is unknown."""
    here, there = fit.get("model"), replacement["model"]
    agree = None
    if here is not None:
        one = LanguageModelName(here, revision=fit.get("model_revision"))
        agree = models_agree(one, LanguageModelName(there, revision=replacement.get("model_revision")))
    if agree is None:
        logger.warning(
            "the dictionary was fitted on the model %r, %s names %r: whether they are the same is unknown",
            here,
            config,
            there,
        )
    elif not agree:
        raise InputError(
            f"the dictionary was fitted on the model {here!r} but {config} names another, {there!r}: "
            "name the model of the fit"
        )
