"""Whether an entry is one of the activations that are compared: same hook point, model and preprocessing."""

from typing import Any

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.models.language_model import LanguageModelName
from itda_lightning.errors import InputError
from itda_lightning.evaluation.entries import Entry

# Settings of TransformerLens that change the residual stream, which an SAE of the one cannot read in the other.
PROCESSING = ("center_writing_weights", "fold_ln", "fold_value_biases", "refactor_factored_attn_matrices")


def differences(
    entry: Entry, data: ActivationsDataModule, hook_name: str, width: int, same_model: bool = False
) -> list[str]:
    """What is different, each as a sentence; empty where the entry can be measured on these activations.

    Args:
        entry: what is loaded.
        data: the comparison's data.
        hook_name, width: the hook point that is compared, and its d_in.
        same_model: do not compare the names of the models.
    """
    metadata, found = entry.sae.cfg.metadata, []
    if metadata.hook_name != hook_name:
        found.append(f"its hook point is {metadata.hook_name!r}, not {hook_name!r}")
    if entry.sae.cfg.d_in != width:
        found.append(f"it has d_in {entry.sae.cfg.d_in}, the activations at {hook_name} have {width} dimensions")
    own = _model_of(entry)
    if own is not None and not same_model and not _same_model(own, data.model_name):
        found.append(
            f"it is of the model {_named(own)}, not {_named(data.model_name)} (same_model: true says that they are one)"
        )
    if metadata.prepend_bos not in (None, data.hparams["prepend_bos"]):
        found.append(f"its prepend_bos is {metadata.prepend_bos}, that of the data is {data.hparams['prepend_bos']}")
    processing = {name: value for name, value in (metadata.model_from_pretrained_kwargs or {}).items() if value}
    changed = sorted(set(processing) & set(PROCESSING))
    if changed:
        found.append(
            f"its activations are of a model with {', '.join(changed)}, not of one as data.loader "
            f"{data.model_name.loader} loads it"
        )
    if entry.sae.cfg.normalize_activations == "expected_average_only_in":
        found.append("it expects scaled activations: fold the scaling with fold_activation_norm_scaling_factor")
    return found


def _model_of(entry: Entry) -> LanguageModelName | None:
    """The model as the entry's own settings name it, which alone know the revision, or else as SAELens knows it."""
    metadata = entry.sae.cfg.metadata if entry.dictionary is None else entry.dictionary.metadata
    settings: dict[str, Any] = metadata.get("data") or {}
    name = settings.get("model") or entry.sae.cfg.metadata.model_name
    return None if name is None else LanguageModelName(name, revision=settings.get("model_revision"))


def _same_model(one: LanguageModelName, other: LanguageModelName) -> bool:
    """By name, and where names differ by the files: a model that was moved or has an alias is the same."""
    if (one.name, one.revision) == (other.name, other.revision):
        return True
    try:
        return one.fingerprint() == other.fingerprint()
    except InputError:
        return False


def _named(model: LanguageModelName) -> str:
    return repr(model.name) if model.revision is None else f"{model.name!r} at {model.revision}"
