"""The models of a comparison, opened and checked before any of them runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from itda_lightning.across_models.alignment import check_same_documents
from itda_lightning.across_models.same_text import SameText
from itda_lightning.across_models.similarity_settings import ModelSettings, kind_of
from itda_lightning.activations.text.split import Split
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.fitting.run_directory import DICTIONARIES

# Of the data of a comparison, what a run takes over; all else is as in its fit.
TAKEN_OVER = ("device", "model_batch_size", "validation_tokens")
# What must be the same of all models, or tokens that one was fitted on are held out for another.
SHARED = ("holdout_fraction", "prepend_bos")


@dataclass
class ComparedModel:
    """One model of a comparison.

    Attributes:
        name: what it is called.
        hook_names: the hook points that are compared.
        data: its documents, rows and activations.
        dictionaries: hook point -> dictionary: those of a run, or those fitted on the spot, once they are.
        is_run: whether it was given by a fitted run.
    """

    name: str
    hook_names: list[str]
    data: SameText
    dictionaries: dict[str, Dictionary] = field(default_factory=dict)
    is_run: bool = False


def open_models(models: Sequence[ModelSettings], data: Mapping[str, Any], of_sources: bool) -> list[ComparedModel]:
    """The models with their data, which read the same held-out text.

    Args:
        models: what is compared.
        data: arguments of ``ActivationsDataModule`` but for those of the model, shared by all.
        of_sources: whether dictionaries are compared.

    Raises:
        InputError: a run without a dictionary of a hook point or without the settings of its fit, models of different
            documents or kinds of hook points, or a single hook point in all.
    """
    opened = [_of_run(one, data) if one.run is not None else _of_model(one, data) for one in models]
    _check_sites(opened)
    first = opened[0].data
    if first.hparams["cache_dir"] is None:
        raise InputError("activations are read more than once: set data.cache_dir")
    for model in opened[1:]:
        for name in SHARED:
            if model.data.hparams[name] != first.hparams[name]:
                raise InputError(
                    f"{opened[0].name} has data.{name} {first.hparams[name]}, {model.name} {model.data.hparams[name]}: they "
                    "would be compared on other text than they were fitted for; fit them with the same"
                )
    for model in opened:
        dataset = model.data.documents.fingerprint
        for hook, dictionary in model.dictionaries.items():
            if of_sources and dictionary.sources is None:
                raise InputError(f"the dictionary of {model.name} at {hook} has no sources: give one that was fitted")
            if dictionary.dataset != dataset:
                raise InputError(
                    f"{model.name} was fitted on documents {dictionary.dataset}, {model.data.documents.name} holds "
                    f"{dataset}: give the documents of its fit"
                )
    check_same_documents({model.name: model.data.documents.fingerprint for model in opened})
    for model in () if of_sources else opened:
        model.data.read_hardly_any_training_text()
    for model in opened[1:]:
        splits: tuple[Split, ...] = ("train", "heldout") if of_sources and not model.is_run else ("heldout",)
        for split in splits:
            model.data.read_the_text_of(first, split)
    return opened


def check_widths(models: Sequence[ComparedModel]) -> None:
    """Load what has to be loaded to know the hook points' widths.

    Raises:
        InputError: a hook point that a model does not have, or a dictionary of another width than its activations.
    """
    for model in models:
        widths = model.data.widths
        for hook, dictionary in model.dictionaries.items():
            if dictionary.d_in != widths[hook]:
                raise InputError(
                    f"the dictionary of {model.name} has d_in {dictionary.d_in} but {hook} of {model.data.model_name.name} has "
                    f"{widths[hook]} dimensions: it was fitted on another model"
                )
        model.data.release_model()


def _of_model(wanted: ModelSettings, data: Mapping[str, Any]) -> ComparedModel:
    return ComparedModel(wanted.name, wanted.hook_names, SameText(**{**data, **wanted.of_the_model}))


def _of_run(wanted: ModelSettings, data: Mapping[str, Any]) -> ComparedModel:
    path = Path(str(wanted.run)).expanduser()
    wanted_hooks: list[str | None] = [*wanted.hook_names]
    loaded = [load_dictionary(path, hook) for hook in wanted_hooks or _hook_names_in(path)]
    dictionaries = {str(dictionary.metadata.get("hook_name")): dictionary for dictionary in loaded}
    settings = loaded[0].metadata.get("data")
    if not settings:
        raise InputError(
            f"{wanted.name}: {path} does not say which model and documents it was fitted on: give a run of itda_lightning.fit"
        )
    changes = {name: data[name] for name in TAKEN_OVER if name in data}
    if settings.get("cache_dir") is None:
        changes["cache_dir"] = data.get("cache_dir")
    names = wanted.hook_names or sorted(dictionaries, key=_layers_first)
    data_of_run = SameText(**{**settings, **changes})
    return ComparedModel(wanted.name, names, data_of_run, {name: dictionaries[name] for name in names}, is_run=True)


def _hook_names_in(path: Path) -> list[str | None]:
    """Those of a run directory; None for the only one of anything else that holds a dictionary."""
    return [entry.name for entry in (path / DICTIONARIES).glob("*")] or [None]


def _layers_first(hook_name: str) -> list[tuple[int, str]]:
    """Numbers in a name by their size, so that layer 10 stands after layer 9."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in hook_name.split(".")]


def _check_sites(models: Sequence[ComparedModel]) -> None:
    if sum(len(model.hook_names) for model in models) < 2:
        raise InputError(
            f"{models[0].name} at {models[0].hook_names[0]} alone cannot be compared: give another model or hook point"
        )
    kinds = {model.name: sorted({kind_of(hook) for hook in model.hook_names}) for model in models}
    # The loaders call the same hook point by different names.
    named = {model.name: model.data.model_name.loader == "huggingface" for model in models}
    for model in models[1:]:
        if named[model.name] == named[models[0].name] and kinds[model.name] != kinds[models[0].name]:
            raise InputError(
                f"the hook points of {models[0].name} are {kinds[models[0].name]}, those of {model.name} {kinds[model.name]}: "
                "similar layers are looked for at hook points of the same kinds; give the same kinds of both"
            )
