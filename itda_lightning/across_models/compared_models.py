"""The models of a similarity study: their data on the same text and their dictionaries, checked before any runs."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from itda_lightning.across_models.similarity_settings import ModelSettings, kind_of
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.models.skeleton import config_of
from itda_lightning.activations.text.retokenisation import retokenise
from itda_lightning.activations.text.split import Split
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.facts import settings
from itda_lightning.errors import InputError
from itda_lightning.evaluation.data_of import check_settings, own_cache
from itda_lightning.fitting.fit_state import fit_identity
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.fitting.module import ITDA
from itda_lightning.fitting.run_directory import DICTIONARIES
from itda_lightning.fitting.trainer import fit_in_memory
from itda_lightning.machine.made_once import hash_of, made_once
from itda_lightning.machine.part_files import is_part
from itda_lightning.machine.paths import user_path

logger = logging.getLogger(__name__)


class SameText(ActivationsDataModule):
    """An ``ActivationsDataModule`` that can read the text of another one's rows; same arguments."""

    def read_the_text_of(self, other: "SameText", split: Split) -> None:
        """Read in this split the text of the other's rows, row by row, in tokens of this model's own tokenizer.

        With the same tokenizer these are the same rows. Rows longer than this model reads are cut off. Call it before
        the split is read. Raises InputError as ``retokenise``, and for a model without a configuration.
        """
        config = config_of(self.model_name.path_or_hub_name(), self.model_name.revision).get_text_config()
        # `transformers` gives 10^30 for a tokenizer that does not know its limit.
        limits = (getattr(self.tokenizer, "model_max_length", None), getattr(config, "max_position_embeddings", None))
        self._rows[split] = retokenise(
            other.cached_rows(split),
            other.tokenizer,
            self.tokenizer,
            prepend_bos=other.hparams["prepend_bos"],
            longest=min(2**31, *(limit for limit in limits if limit is not None)),
        )


@dataclass
class ComparedModel:
    """One model of a study."""

    name: str
    hook_names: list[str]
    data: SameText
    dictionaries: dict[str, Dictionary] = field(default_factory=dict)  # of its run or from ``add_dictionaries``
    is_run: bool = False  # given as a fitted run


def open_models(models: Sequence[ModelSettings], data: Mapping[str, Any], of_sources: bool) -> list[ComparedModel]:
    """Open the models with their data (``data`` are the shared arguments), all reading the same held-out text.

    Unless dictionaries are compared (``of_sources``), no training text is read. Raises InputError for a run without a
    dictionary of a hook point or without the settings of its fit, models of different documents or kinds of hook
    points, or a single hook point in all.
    """
    opened = [
        ComparedModel(one.name, one.hook_names, SameText(**{**data, **one.of_the_model}))
        if one.run is None
        else _from_run(one, user_path(one.run), data)
        for one in models
    ]
    if not of_sources:
        for model in opened:
            # A split has at least one row.
            row = model.data.hparams["context_size"]
            model.data = model.data.with_settings(training_tokens=row, first_tokens=None)
    _check_sites(opened)
    _check_data(opened, of_sources)
    first = opened[0].data
    for model in opened[1:]:
        splits: tuple[Split, ...] = ("train", "heldout") if of_sources and not model.is_run else ("heldout",)
        for split in splits:
            model.data.read_the_text_of(first, split)
    return opened


def check_widths(models: Sequence[ComparedModel]) -> list[int]:
    """Return the widths of all hook points, loading language models whose widths are not cached, one after another.

    The first model stays loaded, since its activations are the first that are harvested. Raises InputError for a hook
    point that a model does not have, or a dictionary of another width.
    """
    found: list[int] = []
    for model in reversed(models):
        widths = model.data.widths
        found = [widths[hook] for hook in model.hook_names] + found
        for hook, dictionary in model.dictionaries.items():
            model.data.check_width(hook, dictionary.d_in)
        if model is not models[0]:
            model.data.release_model()
    return found


def add_dictionaries(model: ComparedModel, fit: Mapping[str, Any], made: Path) -> None:
    """Fit dictionaries of all hook points in one pass over the cache, unless ``made`` has those of the same fit.

    ``fit`` are arguments of ``ITDA``; each fit is in a folder of ``made`` named by its hash.
    """
    module = ITDA(**fit)
    identity = fit_identity(settings(module.hparams), model.data) | {"data.seed": model.data.hparams["seed"]}
    place = made / hash_of(identity)

    def make(directory: Path) -> None:
        fit_in_memory(module, model.data)
        for hook in model.hook_names:
            module.finished_dictionary(hook).save(directory / DICTIONARIES / hook)

    if place.exists():
        logger.info("%s: reusing dictionaries from %s", model.name, place)
    else:
        logger.info("%s: fitting dictionaries at %d hook points", model.name, len(model.hook_names))
    made_once(place, make)
    model.dictionaries = {hook: Dictionary.load(place / DICTIONARIES / hook) for hook in model.hook_names}


def _from_run(model: ModelSettings, path: Path, data: Mapping[str, Any]) -> ComparedModel:
    # Anything that is not a run directory holds one dictionary.
    entries = [entry for entry in (path / DICTIONARIES).glob("*") if not is_part(entry)]
    saved: Sequence[str | None] = [entry.name for entry in entries] or [None]
    loaded = [load_dictionary(path, hook) for hook in model.hook_names or saved]
    dictionaries = {str(dictionary.metadata.get("hook_name")): dictionary for dictionary in loaded}
    of_fit = loaded[0].metadata.get("data")
    if not of_fit:
        raise InputError(
            f"{model.name}: {path} does not say which model and documents it was fitted on: give a run of "
            "itda_lightning.fit"
        )
    check_settings(of_fit)
    changes = {name: data[name] for name in ("device", "model_batch_size", "validation_tokens") if name in data}
    if of_fit.get("cache_dir") is None:
        changes["cache_dir"] = data.get("cache_dir")
    names = model.hook_names or sorted(dictionaries, key=_layers_first)
    own = {name: dictionaries[name] for name in names}
    compared = ComparedModel(model.name, names, SameText(**{**of_fit, **changes}), own, is_run=True)
    # Somebody else may have written where the cache of the fit is.
    compared.data.own_cache_dir = None if "cache_dir" in changes else own_cache()
    return compared


def _layers_first(hook_name: str) -> list[tuple[int, str]]:
    """Return a sort key that compares the numbers in a name by size, so that layer 10 comes after layer 9."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in hook_name.split(".")]


def _check_sites(models: Sequence[ComparedModel]) -> None:
    if sum(len(model.hook_names) for model in models) < 2:
        raise InputError(
            f"{models[0].name} at {models[0].hook_names[0]} alone cannot be compared: give another model or hook point"
        )
    kinds = [sorted({kind_of(hook) for hook in model.hook_names}) for model in models]
    # Loaders call the same hook point by different names.
    huggingface = [model.data.model_name.loader == "huggingface" for model in models]
    for model, kind, named_so in zip(models, kinds, huggingface, strict=True):
        if named_so == huggingface[0] and kind != kinds[0]:
            raise InputError(
                f"the hook points of {models[0].name} are {kinds[0]}, those of {model.name} {kind}: layers are matched "
                "at hook points of one kind; give the same kinds for both"
            )


def _check_data(models: Sequence[ComparedModel], of_sources: bool) -> None:
    first = models[0].data.hparams
    if first["cache_dir"] is None:
        raise InputError("activations are read more than once: set data.cache_dir")
    for model in models[1:]:
        # Or one model's training tokens would be held out for another.
        for name in ("holdout_fraction", "prepend_bos"):
            if (value := model.data.hparams[name]) != first[name]:
                raise InputError(
                    f"{models[0].name} has data.{name} {first[name]}, {model.name} {value}: they would be compared on "
                    "other text than they were fitted for; fit them with the same"
                )
    datasets = {model.name: model.data.documents.fingerprint for model in models}
    for model in models:
        dataset = datasets[model.name]
        for hook, dictionary in model.dictionaries.items():
            if of_sources and dictionary.sources is None:
                raise InputError(f"the dictionary of {model.name} at {hook} has no sources: give one that was fitted")
            if dictionary.dataset != dataset:
                raise InputError(
                    f"{model.name} was fitted on documents {dictionary.dataset}, {model.data.documents.name} holds "
                    f"{dataset}: give the documents of its fit"
                )
    if len(set(datasets.values())) > 1:
        each = ", ".join(f"{name}: {dataset}" for name, dataset in datasets.items())
        raise InputError(
            f"the models read different datasets ({each}), which have no tokens in common: fit and compare them on the "
            "same documents"
        )
