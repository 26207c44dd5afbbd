"""Language models load with every loader; unknown names are refused with the nearest known ones."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from itda_lightning.activations.models.language_model import LanguageModel
from itda_lightning.activations.models.model_name import LanguageModelName
from itda_lightning.errors import InputError
from tests.tiny_model import LONGEST_CONTEXT, WIDTH, save_weights


def test_widths_are_those_of_the_hook_points(tiny_model_dir: Path) -> None:
    hooks = ["hook_embed", "blocks.1.attn.hook_z", "blocks.0.mlp.hook_post", "blocks.2.hook_resid_post"]
    loaded = LanguageModel(LanguageModelName(str(tiny_model_dir)), hooks)
    assert loaded.widths == dict(zip(hooks, [WIDTH, WIDTH, 64, WIDTH], strict=True))
    assert loaded.longest_context == LONGEST_CONTEXT


def test_the_huggingface_loader_takes_module_names(tiny_model_dir: Path) -> None:
    hooks = ["model.layers.1", "model.layers.0.mlp.up_proj"]
    loaded = LanguageModel(LanguageModelName(str(tiny_model_dir), loader="huggingface"), hooks)
    assert loaded.widths == dict(zip(hooks, [WIDTH, 64], strict=True))
    assert loaded.longest_context == LONGEST_CONTEXT


def test_a_model_that_is_spread_stays_on_disk_where_memory_is_short(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks, tokens = ["model.layers.1"], torch.arange(6)[None]
    whole = LanguageModel(LanguageModelName(str(tiny_model_dir), "huggingface", device="cpu"), hooks)
    name = LanguageModelName(str(tiny_model_dir), "huggingface", device="balanced")
    # What the largest layer takes and a little more; `accelerate` asks how much there is.
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=120_000))
    spread = LanguageModel(name, hooks)
    assert {parameter.device.type for parameter in spread.model.parameters()} >= {"meta"}
    found, expected = (model.model.run_with_cache(tokens, prepend_bos=False)[1] for model in (spread, whole))
    assert found["model.layers.1"].equal(expected["model.layers.1"])


def test_only_models_of_transformers_are_spread(tiny_model_dir: Path) -> None:
    with pytest.raises(
        InputError, match="device=balanced is for models of `transformers`: set loader=huggingface, got bri"
    ):
        LanguageModelName(str(tiny_model_dir), device="balanced").torch_device()


@pytest.mark.parametrize("loader", ["bridge", "huggingface"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_dtype_is_the_one_asked_for(tiny_model_dir: Path, loader: Any, dtype: str) -> None:
    loaded = LanguageModel(LanguageModelName(str(tiny_model_dir), loader, dtype=dtype), [])
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {getattr(torch, dtype)}


@pytest.mark.parametrize(
    ("loader", "hook", "near"),
    [
        ("bridge", "blocks.1.hook_resid_pots", "'blocks.1.hook_resid_post'"),
        ("bridge", "blocks.3.hook_resid_post", "'blocks.2.hook_resid_post'"),
        ("bridge", "blocks.1.mlp.hook_pots", "'blocks.1.mlp.hook_p"),
        ("bridge", "something else", "'blocks.0.hook_resid_post', 'blocks.1.hook_resid_post'"),
        ("huggingface", "model.layer.1", "'model.layers.1'"),
        ("huggingface", "blocks.1.hook_resid_post", "'model"),
    ],
)
def test_a_misspelt_hook_point_names_the_nearest(tiny_model_dir: Path, loader: Any, hook: str, near: str) -> None:
    name = LanguageModelName(str(tiny_model_dir), loader)
    with pytest.raises(InputError, match=rf"has no hook point '{hook}': did you mean one of \[") as refused:
        LanguageModel(name, ["model.layers.1" if loader == "huggingface" else "blocks.0.hook_resid_post", hook])
    assert near in str(refused.value)
    names = str(refused.value).split("[")[1].split(", ")
    assert len(set(names)) == len(names)


def test_a_hook_point_without_one_activation_a_token_is_refused(tiny_model_dir: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"'blocks.1.attn.hook_pattern' .* does not hold one activation per token: .* shape \(2, 4, 61, 61\)",
    ):
        LanguageModel(LanguageModelName(str(tiny_model_dir)), ["blocks.1.attn.hook_pattern"])


def test_transformer_lens_does_not_load_directories_and_says_what_to_change(tiny_model_dir: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"cannot load the language model '.*' with loader 'hooked_transformer': ValueError: .*; check the name, "
        "the loader and that its files are complete",
    ):
        LanguageModel(LanguageModelName(str(tiny_model_dir), "hooked_transformer"), [])


@pytest.mark.parametrize("loader", ["bridge", "huggingface"])
def test_a_model_that_is_nowhere(loader: Any, tmp_path: Path) -> None:
    for missing in ("nobody/nothing", str(tmp_path / "missing")):
        name = LanguageModelName(missing, loader)
        with pytest.raises(InputError, match=rf"cannot load the language model '{missing}' with loader '{loader}'"):
            LanguageModel(name, [])
        said = "it is neither a model directory nor" if missing == "nobody/nothing" else "there is no such directory"
        with pytest.raises(InputError, match=rf"cannot load the tokenizer of the language model '{missing}': {said}"):
            name.load_tokenizer()
        with pytest.raises(InputError, match=rf"'{missing}' is neither a local directory nor available from the hub"):
            name.fingerprint()


def test_a_directory_without_weights(tiny_model_dir: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_model_dir / "config.json", tmp_path)
    with pytest.raises(InputError, match=r"cannot load the language model .*OSError.*its files are complete"):
        LanguageModel(LanguageModelName(str(tmp_path)), [])


def test_a_name_that_is_not_bundled() -> None:
    for step in (lambda name: LanguageModel(name, []), LanguageModelName.load_tokenizer, LanguageModelName.fingerprint):
        with pytest.raises(InputError, match=r"'bundled:gpt5' is not bundled: choose one of \['bundled:smollm2-135m'"):
            step(LanguageModelName("bundled:gpt5"))


def test_a_device_that_is_not_there() -> None:
    beyond = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(InputError, match=rf"the device {beyond} was asked for but \d+ CUDA devices are available: use"):
        LanguageModelName("any", device=beyond).torch_device()
    with pytest.raises(InputError, match="'gpu' is not a device: give auto, cpu, cuda, cuda:N or bal"):
        LanguageModelName("any", device="gpu").torch_device()
    assert LanguageModelName("any", device="cpu").torch_device() == torch.device("cpu")
    assert LanguageModelName("any").torch_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("dtype", ["int8", "half-float", "Tensor", "float64", "float8_e4m3fn"])
def test_a_dtype_that_models_do_not_run_in(dtype: str) -> None:
    with pytest.raises(InputError, match=rf"model_dtype must be one of \('float32', .*\), got '{dtype}'"):
        LanguageModelName("any", dtype=dtype).torch_dtype()


def test_the_fingerprint_is_of_the_files_and_not_of_the_place(tiny_model_dir: Path, tmp_path: Path) -> None:
    def fingerprint(path: Path) -> str:
        return LanguageModelName(str(path)).fingerprint()

    copy = Path(shutil.copytree(tiny_model_dir, tmp_path / "copy"))
    assert fingerprint(copy) == fingerprint(tiny_model_dir)
    save_weights(copy, seed=1)
    assert fingerprint(copy) != fingerprint(tiny_model_dir)
    retokenised = Path(shutil.copytree(tiny_model_dir, tmp_path / "retokenised"))
    tokenizer = retokenised / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    assert fingerprint(retokenised) != fingerprint(tiny_model_dir)


def test_a_home_directory_is_found(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tiny_model_dir.parent))
    name = LanguageModelName(f"~/{tiny_model_dir.name}")
    assert name.fingerprint() == LanguageModelName(str(tiny_model_dir)).fingerprint()
    assert LanguageModel(name, ["hook_embed"]).widths == {"hook_embed": WIDTH}
