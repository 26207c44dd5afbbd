"""The models and the arithmetic of `benchmarks/streaming/`."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.streaming import expected, make_model, quantised, run
from tests.activations.backends.streaming import BLOCKS, save_model

DIRECTORY = Path(__file__).parents[2] / "benchmarks" / "streaming"


@pytest.mark.parametrize(
    ("size", "parameters"), [("8B", 8_030_261_248), ("70B", 70_553_706_496), ("405B", 405_853_388_800)]
)
def test_expected_of_the_published_sizes(size: str, parameters: int) -> None:
    machine = expected.Machine()
    found = expected.expect(size, 1_000_000, 16, 128, machine)
    assert found.parameters == parameters
    assert found.hidden == 1_000_000 * found.width * 2
    assert found.weights == 2 * (parameters - 128_256 * found.width - found.width)  # without the head and the last norm
    # No faster than any single resource allows.
    assert found.seconds > found.layers * found.layer_flops / machine.products
    assert found.seconds > (found.weights + found.layers * found.hidden) / machine.read
    twice = expected.expect(size, 2_000_000, 16, 128, machine)
    assert found.seconds < twice.seconds < 2 * found.seconds, "weights are read once whatever the number of tokens"
    assert (twice.cpu_memory, twice.gpu_memory) == (found.cpu_memory, found.gpu_memory)


def test_the_table(tmp_path: Path) -> None:
    expected.main(results=str(tmp_path))
    assert (tmp_path / "expected.md").read_text().count("| Llama 3.1 ") == 3
    committed = DIRECTORY / "results" / "expected.md"
    assert committed.read_text() == (tmp_path / "expected.md").read_text(), (
        "run `python -m benchmarks.streaming.expected` again"
    )


@pytest.mark.slow
def test_the_model_that_is_made_is_one(tmp_path: Path) -> None:
    make_model.main(str(tmp_path / "model"), layers=2, hidden_size=32)
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    model, problems = loaded
    assert not any(problems.values())
    assert len(model.model.layers) == 2
    shards = sorted((tmp_path / "model").glob("*.safetensors"))
    assert len(shards) == 5  # embeddings, two layers, the norm, the head
    weights = load_file(shards[1])["model.layers.0.mlp.up_proj.weight"].float()
    assert float(weights.abs().min()) >= 2**-6
    assert float(weights.abs().max()) < 2**-5
    assert abs(float(weights.mean())) < 1e-3
    assert weights.unique().numel() > 200
    assert len(AutoTokenizer.from_pretrained(tmp_path / "model")) == model.config.vocab_size


def test_what_the_command_says_is_understood() -> None:
    line = "7 layers in 61.24 s: 12 GB of weights at 196 MB/s; 3.10 s of it waiting for weights"
    assert run.SPENT.search(line).groups() == ("7", "61.24", "3.10")


def test_quantised_weights_are_compared_with_exact_ones(
    tmp_path: Path, tiny_model_dir: Path, prose_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = ["float32", "bfloat16", "int8, the rest in float32", "nf4, the rest in float32"]
    monkeypatch.setattr(quantised, "KINDS", {kind: quantised.KINDS[kind] for kind in kinds})
    model = save_model("Llama", tmp_path / "model", tiny_model_dir, **BLOCKS)
    quantised.main(str(model), str(prose_file), 2, 256, 16, str(tmp_path))
    exact, rounded, int8, nf4 = json.loads((tmp_path / "quantised.json").read_text())["rows"]
    assert exact["relative"] == exact["median"] == 0
    assert 0 < rounded["median"] < int8["median"] < nf4["median"] < 1
    assert exact["layer"] == 2 * rounded["layer"]
    assert exact["layer"] / 8 < nf4["layer"] < int8["layer"] < rounded["layer"]
    assert (tmp_path / "quantised.md").read_text().count("\n| ") == 5
