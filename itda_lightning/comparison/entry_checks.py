"""Checks of the entries of a comparison before anything is made: each must be of the activations that are compared."""

from typing import Any

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.models.model_name import LanguageModelName
from itda_lightning.comparison.comparison_settings import ComparisonSettings, EntrySettings
from itda_lightning.comparison.probing_data import load_datasets
from itda_lightning.errors import InputError
from itda_lightning.evaluation.data_of import models_agree
from itda_lightning.evaluation.entries import Entry, load_entry
from itda_lightning.saelens.anatomy import is_of_dictionary
from itda_lightning.saelens.centroids import check_sklearn

# Settings of TransformerLens that change the residual stream, so that an SAE of one cannot read the other.
PROCESSING = ("center_writing_weights", "fold_ln", "fold_value_biases", "refactor_factored_attn_matrices")


def check_entries(settings: ComparisonSettings, data: ActivationsDataModule, hook_name: str) -> None:
    """Check that all entries can be measured on these activations.

    Raises:
        InputError: every entry that cannot be loaded or was made for other activations, with the reason.
    """
    if settings.probes is not None:
        load_datasets(settings.probes)
    problems: list[str] = []
    if "kmeans" in settings.chosen_controls or any(entry.way == "kmeans" for entry in settings.entries):
        check_sklearn()
    cached = [entry.name for entry in settings.entries if entry.way != "load"]
    for entry in settings.entries:
        reasons = _problems_of_settings(entry, data)
        if entry.way == "load":
            try:
                loaded = _load(str(entry.load), hook_name)
            except InputError as error:
                reasons.append(str(error))
            else:
                reasons += differences(loaded, data, hook_name, data.widths[hook_name], entry.same_model)
                if settings.chosen_controls and is_of_dictionary(loaded.sae):
                    cached.append(f"the controls of {entry.name}")
        problems += [f"{entry.name}: {reason}" for reason in reasons]
    if data.hparams["cache_dir"] is None and cached:
        problems.append(f"activations are read more than once to make {', '.join(cached)}: set data.cache_dir")
    if problems:
        raise InputError("; ".join(problems))


def _problems_of_settings(entry: EntrySettings, data: ActivationsDataModule) -> list[str]:
    problems = []
    rows, tokens = data.rows("train"), getattr(entry.chosen, "tokens", None)
    if tokens is not None and not rows.context_size <= tokens <= rows.tokens.numel():
        problems.append(
            f"tokens must lie between one row of {rows.context_size} and the {rows.tokens.numel():,} training "
            f"tokens of the data, got {tokens:,}"
        )
    if entry.fit is not None and entry.fit.refine is not None:
        try:
            entry.fit.refine.check(data)
        except InputError as error:
            problems.append(str(error))
    return problems


def _load(reference: str, hook_name: str) -> Entry:
    """Load an entry of any hook point, so that another than the comparison's is named as such."""
    try:
        return load_entry(reference)
    except InputError:  # it has several hook points, or names none; whatever else is wrong fails again
        return load_entry(reference, hook_name)


def differences(
    entry: Entry, data: ActivationsDataModule, hook_name: str, width: int, same_model: bool = False
) -> list[str]:
    """List what differs between an entry's activations and those compared, one sentence per difference.

    With ``same_model`` the names of the models are not compared.
    """
    metadata, problems = entry.sae.cfg.metadata, []
    if metadata.hook_name != hook_name:
        problems.append(f"its hook point is {metadata.hook_name!r}, not {hook_name!r}")
    if entry.sae.cfg.d_in != width:
        problems.append(f"it has d_in {entry.sae.cfg.d_in}, the activations at {hook_name} have {width} dimensions")
    model = _model_of(entry)
    if model is not None and not same_model and not models_agree(model, data.model_name):
        problems.append(
            f"it is of the model {_named(model)}, not {_named(data.model_name)} "
            "(if they are the same, set same_model: true)"
        )
    if metadata.prepend_bos not in (None, data.hparams["prepend_bos"]):
        problems.append(f"its prepend_bos is {metadata.prepend_bos}, that of the data is {data.hparams['prepend_bos']}")
    processing = {name: value for name, value in (metadata.model_from_pretrained_kwargs or {}).items() if value}
    changed = sorted(set(processing) & set(PROCESSING))
    if changed:
        problems.append(
            f"its activations are of a model with {', '.join(changed)}, not of one as data.loader "
            f"{data.model_name.loader} loads it"
        )
    if entry.sae.cfg.normalize_activations == "expected_average_only_in":
        problems.append("it expects scaled activations: fold the scaling with fold_activation_norm_scaling_factor")
    return problems


def _model_of(entry: Entry) -> LanguageModelName | None:
    """Return the model that the entry's own settings name, which alone know the revision, or else that in SAELens's."""
    metadata = entry.sae.cfg.metadata if entry.dictionary is None else entry.dictionary.metadata
    settings: dict[str, Any] = metadata.get("data") or {}
    name = settings.get("model") or entry.sae.cfg.metadata.model_name
    return None if name is None else LanguageModelName(name, revision=settings.get("model_revision"))


def _named(model: LanguageModelName) -> str:
    return repr(model.name) if model.revision is None else f"{model.name!r} at {model.revision}"
