"""Tiny models to compare: another seed, and another tokenizer."""

from pathlib import Path

import pytest

from tests.across_models.retokenised import cut_merges
from tests.tiny_model import save_tokenizer, save_weights


@pytest.fixture(scope="session")
def other_seed_dir(prose: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("other_seed")
    save_tokenizer(path, prose)
    save_weights(path, seed=1)
    return path


@pytest.fixture(scope="session")
def other_tokenizer_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a third of the merges of its tokenizer."""
    return cut_merges(tiny_model_dir, tmp_path_factory.mktemp("retokenised") / "model", 0.3)
