"""Refusals by the server or of the settings are explained before anything is harvested."""

import importlib
import sys
from pathlib import Path

import pytest

from itda_lightning.errors import InputError
from tests.activations.backends.remote.conftest import COMMIT, REPO
from tests.activations.backends.remote.ndif import KEY, FakeNDIF


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
