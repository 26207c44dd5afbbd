"""Comparisons of a tiny model: fixtures of what can be loaded, and of configs."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from itda_lightning import ActivationsDataModule
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.saelens import save_export
from itda_lightning.saelens.training import train_sae
from itda_lightning.saelens.training_settings import TrainingSettings
from tests.runs import CONTEXT, HOOK, K

FIT = {"max_atoms": 30, "k": K, "pursuit": "omp", "threshold": 0.7}
TRAIN = {"architecture": "topk", "n_latents": 24, "k": 3, "samples": 1024, "batch_size": 256}
PCA = {"pca": {"k": 2}}


@pytest.fixture(scope="session")
def data_section(tiny_model_dir, prose_file, tmp_path_factory) -> dict[str, Any]:
    section = {
        "model": str(tiny_model_dir),
        "hook_names": [HOOK],
        "dataset": str(prose_file),
        "device": "cpu",
        "context_size": CONTEXT,
        "training_tokens": 120 * CONTEXT,
        "validation_tokens": 32 * CONTEXT,
        "cache_dir": str(tmp_path_factory.mktemp("cache")),
    }
    ActivationsDataModule(**section).prepare_data()
    return section


@pytest.fixture(scope="session")
def on_disk(tiny_run, data_section, tmp_path_factory) -> dict[str, Path]:
    """What can be loaded; ``nan`` is an SAE whose weights are lost."""
    root = tmp_path_factory.mktemp("on_disk")
    dictionary = load_dictionary(tiny_run)
    for architecture in ("itda", "matching_pursuit"):
        save_export(dictionary, root / architecture, architecture)
    train_sae(TrainingSettings(**TRAIN), ActivationsDataModule(**data_section), HOOK, root / "trained")
    shutil.copytree(root / "trained", root / "nan")
    weights = root / "nan" / "sae_weights.safetensors"
    save_file({name: torch.full_like(value, torch.nan) for name, value in load_file(weights).items()}, weights)
    return {"run": tiny_run} | {path.name: path for path in root.iterdir()}


@pytest.fixture(scope="session")
def config_of(data_section, tmp_path_factory):
    """Writes a config and returns its path; ``entries`` are name -> settings."""

    def write(directory: Path, entries: dict[str, Any], data: dict[str, Any] | None = None, **others: Any) -> Path:
        content = {
            "data": data_section | (data or {}),
            "directory": str(directory),
            "loss_tokens": 8 * CONTEXT,
            "latents": False,
            "entries": [{"name": name, **settings} for name, settings in entries.items()],
        }
        path = tmp_path_factory.mktemp("config") / "compare.yaml"
        path.write_text(yaml.safe_dump(content | others))
        return path

    return write
