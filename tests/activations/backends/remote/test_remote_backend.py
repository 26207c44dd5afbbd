"""Activations that nnsight fetches are those of the model in memory."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from itda_lightning.activations.backends.remote import remote_backend
from itda_lightning.activations.backends.remote.remote_backend import RemoteBackend
from itda_lightning.errors import InputError
from tests.activations.backends.remote.conftest import ROWS
from tests.activations.backends.remote.ndif import FakeNDIF
from tests.activations.backends.streaming import files, save_model
from tests.activations.conftest import MakeData

LAYERS = {"GPT2": "transformer.h", "GPTNeoX": "gpt_neox.layers"}


def settings_of(architecture: str, loader: str, directory: Path) -> dict[str, Any]:
    layers = LAYERS.get(architecture, "model.layers")
    hooks = [f"{layers}.{n}" for n in (0, 3, 2)]
    if loader == "bridge":
        hooks = [f"blocks.{name}" for name in ("0.hook_resid_pre", "3.hook_resid_post", "2.hook_resid_pre")]
    return {"model": str(directory), "loader": loader, "hook_names": hooks, **ROWS}


@pytest.mark.parametrize(
    ("architecture", "loader", "remote"),
    [
        ("Llama", "huggingface", "local"),
        ("GPT2", "huggingface", "local"),
        ("GPTNeoX", "huggingface", False),
        ("Gemma2", "bridge", False),
    ],
)
def test_as_the_model_in_memory(
    make_data: MakeData,
    tiny_model_dir: Path,
    tmp_path: Path,
    architecture: str,
    loader: str,
    remote: bool | str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])  # which nnsight's local simulation of a server changes
    settings = settings_of(architecture, loader, save_model(architecture, tmp_path / "model", tiny_model_dir))
    backend = RemoteBackend(make_data(cache_dir=str(tmp_path / "remote"), **settings), remote)
    assert backend.fill() == (70 + 8) * 16
    assert backend.fill() == 0
    make_data(cache_dir=str(tmp_path / "whole"), **settings).prepare_data()
    assert files(tmp_path / "remote") == files(tmp_path / "whole")


@pytest.mark.parametrize(
    "settings",
    [
        {"model_dtype": "bfloat16", "cache_dtype": "bfloat16"},
        {"exclude_first_position": False, "exclude_special_tokens": False, "cache_dtype": "float16"},
        {"packing": "one_per_document", "hook_names": ["blocks.2.hook_resid_pre", "blocks.1.hook_resid_post"]},
    ],
    ids=["bfloat16", "all positions", "two names of one place"],
)
def test_under_other_settings(make_data: MakeData, tmp_path: Path, settings: dict) -> None:
    settings = {"training_tokens": 30 * 16, "validation_tokens": 32} | settings
    RemoteBackend(make_data(cache_dir=str(tmp_path / "remote"), **settings), False).fill()
    make_data(cache_dir=str(tmp_path / "whole"), **settings).prepare_data()
    assert files(tmp_path / "remote") == files(tmp_path / "whole")


def test_the_command_harvests_from_the_server(run, ndif: FakeNDIF, tmp_path: Path, capsys) -> None:
    run()
    said = capsys.readouterr().out
    for line in ("tokens: 1,248", "to read: 299.5 kB of activations from the network, no weights"):
        assert line in said
    assert ndif.jobs == [(24, 16), (24, 16), (16, 16), (6, 16), (8, 16)]
    run(backend="in_memory", data__cache_dir=tmp_path / "whole")
    assert files(tmp_path / "cache") == files(tmp_path / "whole")
    run()
    assert "\n0 tokens harvested" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "nothing_known"}, "has no architecture that `transformers` knows"),
        ({"model_type": "t5"}, "is no causal decoder: its config is a T5Config"),
        ({"model_type": "gptj"}, "bridge is not known to give gptj models the same bits .* set loader=huggingface"),
    ],
)
def test_an_unknown_architecture(
    make_data: MakeData, tiny_model_dir: Path, tmp_path: Path, change: dict, said: str
) -> None:
    other = Path(shutil.copytree(tiny_model_dir, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(InputError, match=said):
        RemoteBackend(make_data(model=str(other), cache_dir=str(tmp_path)), False)


def test_layers_that_give_something_else(make_data: MakeData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_backend, "_trace", lambda *arguments: [torch.zeros(4, 8, 15, 32)])
    with pytest.raises(
        InputError, match=r"LlamaForCausalLM .* not one that backend=remote knows: .*\(4, 8, 15, 32\), not"
    ):
        RemoteBackend(make_data(cache_dir=str(tmp_path)), False).fill()
