"""The facts of a fit: data, settings and course."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch
from jaxtyping import Int
from torch import Tensor

from itda_lightning.dictionary.dictionary import REFINEMENT, Dictionary
from itda_lightning.dictionary.joint_atoms import SITES
from itda_lightning.dictionary.sites import Sites
from itda_lightning.machine.paths import is_here, is_meant_as_path

# SAELens's names of the loaders; the bridge has the hook names of a HookedTransformer.
MODEL_CLASSES = {
    "bridge": "HookedTransformer",
    "hooked_transformer": "HookedTransformer",
    "huggingface": "AutoModelForCausalLM",
}

NO_SITES = Sites()

# One validation on held-out documents: hook_name, seen, n_atoms, fvu, l0, dead_atoms, validation_activations.
Validation = dict[str, float | int | str]


class FitMetadata(TypedDict):
    """JSON facts of the fit of one hook point, saved in checkpoints and beside the dictionary.

    ``model_name`` to ``exclude_special_tokens`` are the names that SAELens's tools read.
    """

    hook_name: str
    model_name: str | None
    model_class_name: str
    dataset_path: str | None
    context_size: int | None
    prepend_bos: bool | None
    exclude_special_tokens: bool | None
    data: dict[str, Any]
    fit: dict[str, Any]
    threshold: float | None
    typical_energy: float | None
    activations_seen: int
    activations_skipped: int
    growth: list[list[int]]
    validation: list[Validation]
    codes: NotRequired[dict[str, Any]]
    refinement: NotRequired[dict[str, Any]]
    sites: NotRequired[list[list[str | int | float]]]


def without_local_paths(facts: Any) -> Any:
    """Return JSON facts for others: of paths only the last part is left, of a directory of caches nothing.

    A path is what has its form (``is_meant_as_path``), and what has a slash and is on this disk.
    """
    if isinstance(facts, Mapping):
        return {key: None if key == "cache_dir" else without_local_paths(value) for key, value in facts.items()}
    if isinstance(facts, list):
        return [without_local_paths(item) for item in facts]
    if isinstance(facts, str) and "://" not in facts and (is_meant_as_path(facts) or ("/" in facts and is_here(facts))):
        return Path(facts).name or "/"
    return facts


def codes_of(dictionary: Dictionary) -> dict[str, Any]:
    """Return the settings that decide the codes of given atoms."""
    return {name: getattr(dictionary, name) for name in ("k", "pursuit", "nonnegative", "least_gain")}


def settings(hyper_parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return constructor arguments as JSON, without those that LightningCLI adds."""
    return {
        key: str(value) if isinstance(value, Path) else value
        for key, value in hyper_parameters.items()
        if not key.startswith("_")
    }


def fit_metadata(
    hook_name: str,
    *,
    data: Mapping[str, Any],
    fit: Mapping[str, Any],
    threshold: float | None,
    seen: int,
    skipped: int,
    appended_at: Int[Tensor, " n"],
    history: Sequence[Validation],
    refinement: Mapping[str, Any] | None = None,
    typical_energy: float | None = None,
    codes: Mapping[str, Any] | None = None,
    sites: Sites = NO_SITES,
) -> FitMetadata:
    """Return the facts that are saved beside the dictionary of one hook point.

    Args:
        data, fit: settings of the data and of the fit.
        threshold, typical_energy: of the growth rule; None, or a threshold of nan, if nothing grew yet.
        seen, skipped: training activations, and those of them that could not be used.
        appended_at: activations seen when each atom was appended.
        history: validations of all hook points before any refinement.
        refinement: the facts of a refinement, its validation among them.
        codes: the settings of the codes that were validated, as ``codes_of`` returns them.
        sites: of a joint fit.
    """
    grown_at, counts = appended_at.unique(return_counts=True)
    metadata = FitMetadata(
        hook_name=hook_name,
        model_name=data.get("model"),
        model_class_name=MODEL_CLASSES[data.get("loader", "bridge")],
        dataset_path=data.get("dataset"),
        context_size=data.get("context_size"),
        prepend_bos=data.get("prepend_bos"),
        exclude_special_tokens=data.get("exclude_special_tokens"),
        data=dict(data),
        fit=dict(fit),
        threshold=None if threshold is None or math.isnan(threshold) else threshold,
        typical_energy=typical_energy,
        activations_seen=seen,
        activations_skipped=skipped,
        growth=torch.stack([grown_at, counts.cumsum(0)], dim=1).tolist(),  # [activations seen, atoms]
        validation=[entry for entry in history if entry["hook_name"] == hook_name],
    )
    if codes is not None:
        metadata["codes"] = dict(codes)
    if refinement is not None:
        metadata[REFINEMENT] = dict(refinement)
    if sites:
        metadata[SITES] = [list(site) for site in sites]
    return metadata
