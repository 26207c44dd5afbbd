from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from itda_lightning.activations import model_and_rows
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.models.language_model import LanguageModel
from itda_lightning.activations.models.model_name import LanguageModelName
from itda_lightning.activations.text.documents import load_documents

HOOK = "blocks.1.hook_resid_post"
MakeData = Callable[..., ActivationsDataModule]
LOAD_TOKENIZER = LanguageModelName.load_tokenizer


@pytest.fixture(scope="session")
def opened() -> dict[tuple[str, ...], Any]:
    """The tiny model as it was loaded, its tokenizer and the prose, by their settings. No test changes them."""
    return {}


@pytest.fixture
def make_data(
    tiny_model_dir: Path, prose_file: Path, opened: dict[tuple[str, ...], Any], monkeypatch: pytest.MonkeyPatch
) -> MakeData:
    """A DataModule over the tiny model and the prose: 140 training rows (3 files of a cache) of 16 tokens.

    The tiny model and the prose are opened once for all tests.
    """

    def once(function: Callable[..., Any]) -> Callable[..., Any]:
        def shared(what: LanguageModelName | str, *arguments: Any, **options: Any) -> Any:
            name = what if isinstance(what, str) else what.name
            if name not in (str(tiny_model_dir), str(prose_file)) or options.get("streaming"):
                return function(what, *arguments, **options)
            key = (function.__name__, repr(what), repr(arguments), repr(options))
            if key not in opened:
                opened[key] = function(what, *arguments, **options)
            return opened[key]

        return shared

    monkeypatch.setattr(model_and_rows, "LanguageModel", once(LanguageModel))
    monkeypatch.setattr(model_and_rows, "load_documents", once(load_documents))
    monkeypatch.setattr(LanguageModelName, "load_tokenizer", once(LOAD_TOKENIZER))

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
