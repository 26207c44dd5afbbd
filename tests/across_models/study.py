"""Settings of a similarity study of tiny models that takes seconds."""

from pathlib import Path
from typing import Any

from itda_lightning.across_models.similarity_settings import ModelSettings, SimilaritySettings

HOOKS = [f"blocks.{layer}.hook_resid_post" for layer in range(3)]
FIT = {"max_atoms": 80, "k": 4, "threshold": 0.6, "calibration_tokens": 256}


def data_of(prose: Path, cache: Path, **others: Any) -> dict[str, Any]:
    """Return the data settings that all models share."""
    return {
        "dataset": str(prose),
        "device": "cpu",
        "context_size": 16,
        "training_tokens": 96 * 16,
        "validation_tokens": 48 * 16,
        "holdout_fraction": 0.3,
        "cache_dir": str(cache),
    } | others


def settings_of(directory: Path, models: dict[str, dict[str, Any]], **others: Any) -> SimilaritySettings:
    options = {"queries": 100, "anchors": 20, "sample": 120, "k": 5, "resamples": 4} | others
    return SimilaritySettings([ModelSettings(name, **one) for name, one in models.items()], str(directory), **options)
