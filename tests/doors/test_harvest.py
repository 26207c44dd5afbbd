"""The harvest command: the plan, what it refuses before it reads, and the cache that a fit then finds."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from itda_lightning import harvest
from itda_lightning.activations.backends import harvest_plan
from itda_lightning.activations.backends.streamed.streamed_decoder import StreamedDecoder
from itda_lightning.activations.backends.streamed.weight_files import WeightFiles
from itda_lightning.activations.models import skeleton
from itda_lightning.errors import InputError

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture
def run(tiny_model_dir: Path, prose_file: Path, tmp_path: Path):
    """Run the command on 30 training rows and 4 held-out ones of 16 tokens."""

    def run(**changes: Any) -> None:
        options = {
            "data.model": tiny_model_dir,
            "data.hook_names": f"[{HOOK}]",
            "data.dataset": prose_file,
            "data.device": "cpu",
            "data.context_size": 16,
            "data.training_tokens": 480,
            "data.validation_tokens": 64,
            "data.cache_dir": tmp_path / "cache",
            "backend": "streamed",
        } | {name.replace("__", "."): value for name, value in changes.items()}
        harvest.main([f"--{name}={value}" for name, value in options.items() if value is not None])

    return run


@pytest.fixture
def nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WeightFiles, "_read", lambda *arguments: pytest.fail("weights are read"))
    monkeypatch.setattr("itda_lightning.activations.models.loaders.load", lambda *a: pytest.fail("a model is loaded"))


def test_both_backends_fill_the_cache_of_the_same_config(run, tmp_path: Path, capsys) -> None:
    config = tmp_path / "fit.yaml"
    config.write_text("model: {max_atoms: 100}\nrun: {name: it}\nseed_everything: 3\n")
    for backend in ("streamed", "in_memory"):
        run(config=config, backend=backend, data__cache_dir=tmp_path / backend)
        said = capsys.readouterr().out
        for part in (
            "tokens: 544",
            "to read: ",
            "disk: ",
            "peak memory: ",
            "544 tokens harv",
        ):
            assert part in said
    names = [
        sorted(path.name for path in (tmp_path / each).glob("activations-*")) for each in ("streamed", "in_memory")
    ]
    assert names[0] == names[1]
    assert len(names[0]) == 2
    run(backend="streamed", data__cache_dir=tmp_path / "in_memory")
    assert "0 tokens harvested; cache: " in capsys.readouterr().out


@pytest.mark.usefixtures("nothing_is_read")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data__cache_dir": None}, "a harvest is written to disk: set data.cache_dir"),
        (
            {"data__hook_names": "[blocks.1.attn.hook_q]"},
            r"cannot give the hook point 'blocks.1.attn.hook_q' of .*in_mem",
        ),
        ({"data__hook_names": "[blocks.3.hook_resid_pre]"}, r"cannot give .*'blocks.3.hook_resid_pre'.*N from 0 to 2"),
        (
            {"data__hook_names": "[model.layers.9]", "data__loader": "huggingface"},
            r"cannot give the hook point 'model.layers.9' .* they give model.layers.N with N from 0 to 2",
        ),
        ({"data__loader": "hooked_transformer"}, "loader=hooked_transformer is another implementation of the model"),
        (
            {"data__context_size": 400, "data__training_tokens": 800, "data__validation_tokens": 400},
            "reads at most 128 tok",
        ),
        (
            {"data__model": "nobody/nothing"},
            "nobody/nothing' is neither a directory nor was it downloaded: run `hf down",
        ),
        (
            {"memory": 2**28},
            r"needs 1\.0\d+ GB of memory \(this process 1.074 GB, two layers of weights .*may take "
            r"268\.4 MB: raise mem",
        ),
        (
            {"memory": 2**28, "backend": "in_memory"},
            r"needs 1\.\d+ GB of memory but may take 268\.4 MB: .* set backend=stream",
        ),
        ({"memory": 5}, "memory must be at least 1,048,576, got 5: give bytes"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_read(run, changes: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        run(**changes)


@pytest.mark.usefixtures("nothing_is_read")
@pytest.mark.parametrize("backend", ["streamed", "in_memory"])
def test_too_little_disk(run, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harvest_plan.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match=r"needs 67\.\d+ kB of disk for the cache and .* has 1 kB: lower data.train"):
        run(backend=backend)


@pytest.mark.usefixtures("nothing_is_read")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "nothing_known"}, "has no architecture that `transformers` knows"),
        ({"model_type": "t5"}, "is no causal decoder: its config is a T5Config"),
        ({"model_type": "gptj"}, "bridge is not known to give gptj models the same bits .* set loader=huggingface"),
        (
            {"quantization_config": {"quant_method": "fp8"}},
            "is quantised with fp8, which is not supported: give one quantised with bitsandbytes",
        ),
        (
            {"num_hidden_layers": 5},
            r"are not those of LlamaForCausalLM: model.layers.3.* is missing; .*check config.json",
        ),
        ({"intermediate_size": 48}, r"has the shape \(.*64.*\), not \(.*48.*\)"),
    ],
)
def test_an_architecture_that_is_not_streamed(
    run, tiny_model_dir: Path, tmp_path: Path, change: dict, said: str
) -> None:
    other = Path(shutil.copytree(tiny_model_dir, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(InputError, match=said):
        run(data__model=other)


def test_layers_that_see_the_tokens_are_refused(run, monkeypatch: pytest.MonkeyPatch) -> None:
    record = StreamedDecoder._record

    def with_tokens(decoder: StreamedDecoder, tokens: torch.Tensor) -> Any:
        hidden, calls = record(decoder, tokens)
        return hidden, [(arguments, keywords | {"per_layer": tokens}) for arguments, keywords in calls]

    monkeypatch.setattr(StreamedDecoder, "_record", with_tokens)
    with pytest.raises(InputError, match=r"LlamaForCausalLM .* cannot be streamed: its layers get arguments besides"):
        run()


def test_a_decoder_without_a_list_of_layers_is_refused(run, monkeypatch: pytest.MonkeyPatch) -> None:
    from_config = skeleton.AutoModelForCausalLM.from_config

    def without(config: AutoConfig, **options: Any) -> Any:
        model = from_config(config, **options)
        model.model.layers = torch.nn.Sequential(*model.model.layers)
        return model

    monkeypatch.setattr(skeleton.AutoModelForCausalLM, "from_config", without)
    with pytest.raises(
        InputError, match="cannot be read layer by layer: it has 0 lists of 3 layers; set backend=in_memory"
    ):
        run()
