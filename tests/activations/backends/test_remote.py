"""Activations that nnsight fetches are those of the model in memory; what fails on the way is tried again or explained."""

import importlib
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from itda_lightning import harvest
from itda_lightning.activations.backends.remote import retries, served_model
from itda_lightning.activations.backends.remote.remote_backend import RemoteBackend
from itda_lightning.errors import InputError
from tests.activations.backends.ndif import KEY, FakeNDIF, serving
from tests.activations.backends.streaming import files, save_model
from tests.activations.conftest import MakeData

REPO, COMMIT = "tiny/llama", "1" * 40
LAYERS = {"GPT2": "transformer.h", "GPTNeoX": "gpt_neox.layers"}
ROWS = {"training_tokens": 70 * 16, "validation_tokens": 8 * 16, "model_batch_size": 24}


@pytest.fixture(scope="module", autouse=True)
def nnsight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """nnsight as it comes, without the user's configuration; afterwards objects lose the method that it gave to all."""
    missing = tmp_path_factory.mktemp("nnsight") / "config.yaml"
    before = {name: os.environ.pop(name, None) for name in ("NNSIGHT_CONFIG", "NDIF_API_KEY", "NDIF_HOST")}
    os.environ["NNSIGHT_CONFIG"] = str(missing)
    import nnsight
    from nnsight._c import unmount

    nnsight.CONFIG.APP.REMOTE_LOGGING = False
    yield nnsight
    unmount("save")
    del os.environ["NNSIGHT_CONFIG"]
    os.environ |= {name: value for name, value in before.items() if value is not None}


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds waited between tries, which do not pass."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


@pytest.fixture
def ndif(
    tiny_model_dir: Path, tmp_path: Path, nnsight: Any, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeNDIF]:
    """A server of the tiny model, which is in the cache of the hub under the name by which it is served."""
    repository = tmp_path / "hub" / f"models--{REPO.replace('/', '--')}"
    shutil.copytree(tiny_model_dir, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setitem(importlib.import_module("nnsight.modeling.huggingface")._ID_CACHE, REPO, REPO)
    with serving(tiny_model_dir, REPO) as server:
        monkeypatch.setattr(nnsight.CONFIG.API, "HOST", server.url)
        monkeypatch.setattr(nnsight.CONFIG.API, "APIKEY", KEY)
        yield server


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
        ("Qwen2", "huggingface", False),
        ("Mistral", "huggingface", False),
        ("Gemma2", "huggingface", False),
        ("GPTNeoX", "huggingface", False),
        ("Llama", "bridge", False),
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


@pytest.fixture
def run(prose_file: Path, tmp_path: Path):
    """Run the command on 70 training rows, in two files of a cache, and 8 held-out ones, in batches of 24."""

    def run(**changes: Any) -> None:
        options = {
            "data.model": REPO,
            "data.hook_names": "[blocks.0.hook_resid_pre,blocks.1.hook_resid_post]",
            "data.dataset": prose_file,
            "data.device": "cpu",
            "data.context_size": 16,
            "data.cache_dir": tmp_path / "cache",
            "backend": "remote",
            **{f"data.{name}": value for name, value in ROWS.items()},
        } | {name.replace("__", "."): value for name, value in changes.items()}
        harvest.main([f"--{name}={value}" for name, value in options.items()])

    return run


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


def test_what_passes_is_tried_again_after_longer_and_longer_waits(
    run, ndif: FakeNDIF, waits: list[float], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ndif.faults = [
        ("handshake", 503), ("post", 500), "drop", ("post", 429), ("handshake", 429), None, None, ("post", 429), None,
    ]  # fmt: skip
    run()
    assert waits == [2, 4, 8, 16, 32, 7]  # the server asked for 7 seconds
    assert len(ndif.jobs) == 5
    assert ndif.faults == []
    for told in (
        "384 tokens: WebSocketBadStatusException: Handshake status 503 ",
        "384 tokens: HTTPStatusError: Server error '500 ",
        "384 tokens: ConnectionError: the connection was closed, or ",
        "; trying again in 8 s",
        "256 tokens: HTTPStatusError: Client error '429 ",
    ):
        assert told in caplog.text
    ndif.faults = []
    run(backend="in_memory", data__cache_dir=tmp_path / "whole")
    assert files(tmp_path / "cache") == files(tmp_path / "whole")


def test_a_server_that_goes_away_ends_the_run_and_the_next_goes_on(
    run, ndif: FakeNDIF, waits: list[float], tmp_path: Path
) -> None:
    ndif.faults = [None] * 3 + ["drop"] * 9
    with pytest.raises(
        InputError, match=r"^96 tokens: failed 9 times within 8.5 minutes, at last with ConnectionError: the con.*again"
    ):
        run()
    assert waits == [2, 4, 8, 16, 32, 64, 128, 256]
    ndif.jobs.clear()
    run()
    assert ndif.jobs == [(6, 16), (8, 16)]  # the first file was there
    run(backend="in_memory", data__cache_dir=tmp_path / "whole")
    assert files(tmp_path / "cache") == files(tmp_path / "whole")


def test_nobody_is_there(run, ndif: FakeNDIF, waits: list[float], nnsight, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(nnsight.CONFIG.API, "HOST", f"http://127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(
            InputError, match=r"asking http://127.0.0.1:\d+ what it serves: failed 9 times .*ConnectionError"
        ):
            run()
    assert len(waits) == 8


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("fails", r"384 tokens: the server refuses \(out of memory\); what was written stays"),
        (("post", 400), r"384 tokens: the server refuses \(Failed to send request: by order\)"),
        (("handshake", 401), r"384 tokens: the server refuses \(Handshake status 401 "),
    ],
)
def test_what_does_not_pass_is_not_tried_again(run, ndif: FakeNDIF, waits: list[float], fault: Any, said: str) -> None:
    ndif.faults = [fault]
    with pytest.raises(InputError, match=said):
        run()
    assert waits == []


def test_a_wrong_key(run, ndif: FakeNDIF, nnsight, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nnsight.CONFIG.API, "APIKEY", KEY[::-1])
    with pytest.raises(InputError, match=r"the server refuses \(Failed to send request: Invalid API key.\)"):
        run()


def test_another_dtype_than_the_servers(run, ndif: FakeNDIF, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"computes 'tiny/llama' in float32, not in data.model_dtype=bfloat16: set data.mo"
    ):
        run(data__model_dtype="bfloat16")
    assert not list(tmp_path.glob("cache/*/*.arrow"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"data__hook_names": "[blocks.1.attn.hook_q]"},
            r"cannot give the hook point 'blocks.1.attn.hook_q' .*in_memory",
        ),
        ({"data__hook_names": "[blocks.3.hook_resid_pre]"}, "cannot give .* with N from 0 to 2"),
        (
            {"data__hook_names": "[model.layers.3]", "data__loader": "huggingface"},
            "'model.layers.3' of 'tiny/llama': they give model.layers.N with N from 0 to 2",
        ),
        (
            {"data__loader": "hooked_transformer"},
            "another implementation of the model, which the backends streamed and rem",
        ),
        (
            {"data__context_size": 400, "data__training_tokens": 800, "data__validation_tokens": 400},
            "at most 128 tokens",
        ),
        ({"data__model": "nobody/nothing"}, "cannot load the tokenizer of the language model 'nobody/nothing'"),
        ({"data__model_revision": COMMIT}, f"does not serve tiny/llama@{COMMIT}, it serves tiny/llama@main: choose"),
        ({"memory": 2**28}, r"needs 1\.07\d GB of memory but may take 268\.4 MB"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_asked_for(run, ndif: FakeNDIF, changes: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        run(**changes)
    assert ndif.sessions == {}


def test_a_model_that_is_not_served(run, ndif: FakeNDIF) -> None:
    ndif.served.pop("one")
    with pytest.raises(
        InputError, match=r"does not serve tiny/llama@main, it serves nothing now: .* or set backend=stream"
    ):
        run()


def test_a_model_of_this_machine_only(run, ndif: FakeNDIF, tiny_model_dir: Path) -> None:
    with pytest.raises(
        InputError, match=r"the server runs models of the hub, and '.*' is a directory of this machine: give"
    ):
        run(data__model=tiny_model_dir)


def test_ndif_without_a_key(run, ndif: FakeNDIF, nnsight, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nnsight.CONFIG.API, "APIKEY", None)
    monkeypatch.setattr(nnsight.CONFIG.API, "HOST", type(nnsight.CONFIG.API).model_fields["HOST"].default)
    with pytest.raises(
        InputError, match=r"NDIF needs a key: get one at https://login.ndif.us, then set NDIF_API_KEY or run"
    ):
        run()


def test_the_hub_is_not_reached(run, ndif: FakeNDIF, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(importlib.import_module("nnsight.modeling.huggingface")._ID_CACHE, REPO)
    with pytest.raises(
        InputError, match=r"nnsight asks the hub how 'tiny/llama' is spelt, which failed \(.*check the net"
    ):
        run()


def test_without_nnsight(run, ndif: FakeNDIF, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nnsight", None)
    with pytest.raises(InputError, match=r"backend=remote needs nnsight .*: pip install 'itda-lightning\[remote\]'"):
        run()


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
    monkeypatch.setattr(served_model, "_trace", lambda *arguments: [torch.zeros(4, 8, 15, 32)])
    with pytest.raises(
        InputError, match=r"LlamaForCausalLM .* not one that backend=remote knows: .*\(4, 8, 15, 32\), not"
    ):
        RemoteBackend(make_data(cache_dir=str(tmp_path)), False).fill()


def test_a_bug_is_no_failure_of_the_network(waits: list[float]) -> None:
    with pytest.raises(ZeroDivisionError):
        retries.with_retries(lambda: 1 // 0, "a division")
    assert waits == []
