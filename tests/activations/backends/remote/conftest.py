"""A fake NDIF server of the tiny model, and the harvest command that asks it."""

import importlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from itda_lightning import harvest
from tests.activations.backends.remote.ndif import KEY, FakeNDIF, serving

REPO, COMMIT = "tiny/llama", "1" * 40
ROWS = {"training_tokens": 70 * 16, "validation_tokens": 8 * 16, "model_batch_size": 24}


@pytest.fixture(scope="package", autouse=True)
def nnsight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """nnsight without the user's configuration; afterwards the method that it adds to all objects is removed."""
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
