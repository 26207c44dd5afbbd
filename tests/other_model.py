"""A second tiny model with a run on the prose of the first, and a third one with another tokenizer."""

import shutil
from pathlib import Path

import pytest

from tests.runs import fit_tiny
from tests.tiny_model import save_tokenizer, save_weights


@pytest.fixture(scope="session")
def other_model_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other random weights, the same tokenizer."""
    path = tmp_path_factory.mktemp("other_model")
    save_weights(path, seed=1)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_model_dir / name, path)
    return path


@pytest.fixture(scope="session")
def other_tokens_dir(prose: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other random weights and another tokenizer."""
    path = tmp_path_factory.mktemp("other_tokens")
    save_weights(path, seed=2)
    save_tokenizer(path, [text.upper() + text[:500] for text in prose[:10]])
    return path


@pytest.fixture(scope="session")
def other_run(tmp_path_factory: pytest.TempPathFactory, other_model_dir: Path, prose_file: Path) -> Path:
    """A finished run of the other model on the rows of ``tiny_run``. Not to be written to: tests share it."""
    return fit_tiny(tmp_path_factory.mktemp("runs") / "other", other_model_dir, prose_file)
