"""A model directory with an adapter is refused, since a model is loaded without it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from itda_lightning.activations.models.language_model import LanguageModel
from itda_lightning.activations.models.model_name import LanguageModelName
from itda_lightning.activations.models.skeleton import directory_of
from itda_lightning.errors import InputError

STEPS: list[Callable[[LanguageModelName], object]] = [
    LanguageModelName.load_tokenizer,
    LanguageModelName.fingerprint,
    directory_of,
    lambda name: LanguageModel(name, []),
]


@pytest.mark.parametrize("loader", ["bridge", "huggingface", "hooked_transformer"])
@pytest.mark.parametrize("alone", [True, False])
def test_an_adapter_is_refused(tiny_model_dir: Path, tmp_path: Path, alone: bool, loader: str) -> None:
    if not alone:
        shutil.copytree(tiny_model_dir, tmp_path, dirs_exist_ok=True)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    for step in STEPS:
        with pytest.raises(
            InputError, match=r"holds an adapter \(adapter_config.json\), .*: merge it into 'org/base' f"
        ):
            step(LanguageModelName(str(tmp_path), loader))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"base_model_name_or_path": 3}'])
def test_an_adapter_without_a_base_is_refused_as_well(tmp_path: Path, content: str) -> None:
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(InputError, match=r"holds an adapter .*: merge it into its base model first"):
        LanguageModelName(str(tmp_path)).fingerprint()


def test_weights_of_an_adapter_are_enough(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(InputError, match=r"holds an adapter \(adapter_model.safetensors\)"):
        LanguageModelName(str(tmp_path)).fingerprint()


@pytest.mark.parametrize("damage", ["missing", "no JSON"])
def test_a_directory_without_a_tokenizer_says_what_is_missing(
    tiny_model_dir: Path, tmp_path: Path, damage: str
) -> None:
    shutil.copy(tiny_model_dir / "config.json", tmp_path)
    if damage == "no JSON":
        (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(
        InputError, match=r"cannot load the tokenizer .*the directory lacks its files, or .*: put token"
    ):
        LanguageModelName(str(tmp_path)).load_tokenizer()


def test_transformer_lens_with_a_directory_says_which_loader_to_set(tiny_model_dir: Path) -> None:
    with pytest.raises(InputError, match=r"with loader 'hooked_transformer': .*no directories: set loader=bridge"):
        LanguageModel(LanguageModelName(str(tiny_model_dir), "hooked_transformer"), [])
