from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.models.language_model import LanguageModel, LanguageModelName

HOOK = "blocks.1.hook_resid_post"
MakeData = Callable[..., ActivationsDataModule]


@pytest.fixture(scope="session")
def loaded_models() -> dict[tuple, LanguageModel]:
    """The tiny model as it was loaded, by its settings and hook points."""
    return {}


@pytest.fixture
def make_data(
    tiny_model_dir: Path,
    prose_file: Path,
    loaded_models: dict[tuple, LanguageModel],
    monkeypatch: pytest.MonkeyPatch,
) -> MakeData:
    """A DataModule over the tiny model and the prose: 140 training rows (3 files of a cache) of 16 tokens.

    The tiny model is loaded once for all tests.
    """

    def load(name: LanguageModelName, hook_names: list[str]) -> LanguageModel:
        key = (name, *hook_names)
        if key in loaded_models:
            return loaded_models[key]
        loaded = LanguageModel(name, hook_names)
        if name.name == str(tiny_model_dir):  # which no test changes
            loaded_models[key] = loaded
        return loaded

    monkeypatch.setattr("itda_lightning.activations.model_and_rows.LanguageModel", load)

    def make(**changes: Any) -> ActivationsDataModule:
        settings = {
            "model": str(tiny_model_dir),
            "hook_names": [HOOK],
            "dataset": str(prose_file),
            "device": "cpu",
            "model_batch_size": 8,
            "context_size": 16,
            "training_tokens": 140 * 16,
            "validation_tokens": 512,
            "batch_size": 100,
        }
        return ActivationsDataModule(**(settings | changes))

    return make


@pytest.fixture(scope="session")
def tokenizer(tiny_model_dir: Path) -> Any:
    return LanguageModelName(str(tiny_model_dir)).load_tokenizer()
