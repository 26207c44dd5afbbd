"""A harvest that was killed goes on where it was and ends with the same files."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from datasets import load_from_disk

from itda_lightning.activations import datamodule
from itda_lightning.activations.datamodule import ActivationsDataModule
from tests.activations.conftest import MakeData
from tests.processes import run_python


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir() if not file.name.endswith(".part")}


@pytest.fixture
def harvested(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The (start, stop) rows of every harvest into a cache from now on."""
    calls: list[tuple[int, int]] = []
    harvest = datamodule.harvest

    def counted(language_model: Any, rows: Any, model_batch_size: int, start_row: int, stop_row: int) -> Any:
        calls.append((start_row, stop_row))
        return harvest(language_model, rows, model_batch_size, start_row, stop_row)

    monkeypatch.setattr(datamodule, "harvest", counted)
    return calls


def path_of(data: ActivationsDataModule) -> Path:
    cache = data.cache("train")
    assert cache is not None
    return cache.path


def test_killed_and_resumed_is_as_if_never_killed(
    make_data: MakeData, tmp_path: Path, harvested: list[tuple[int, int]], caplog: pytest.LogCaptureFixture
) -> None:
    # 24 rows at a time do not divide the 64 rows of a file.
    data = make_data(cache_dir=str(tmp_path / "killed"), model_batch_size=24)
    killed = run_python("-m", "tests.activations.kill_while_harvesting", json.dumps(dict(data.hparams)))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    path = path_of(data)
    assert sorted(files(path)) == ["checksums.xxh128", "data-00000-of-00003.arrow"]
    assert len(list(path.glob(".data-00001*.part"))) == 1
    written = (path / "data-00000-of-00003.arrow").stat().st_mtime_ns
    cache = data.cache("train")
    assert cache is not None
    assert not cache.complete

    caplog.set_level("INFO", "itda_lightning")
    data.prepare_data()
    assert f"resuming the cache {path}: 1 of 3 files are finished" in caplog.text
    assert harvested == [(64, 128), (128, 140), (0, 32)]
    assert (path / "data-00000-of-00003.arrow").stat().st_mtime_ns == written
    assert data.harvested_tokens == (140 - 64) * 16 + 512

    whole = make_data(cache_dir=str(tmp_path / "whole"), model_batch_size=24)
    whole.prepare_data()
    assert load_from_disk(str(path)).data.table.equals(load_from_disk(str(path_of(whole))).data.table)
    assert files(path) == files(path_of(whole))


def test_killed_after_the_last_file_only_the_end_is_written(
    make_data: MakeData, tmp_path: Path, harvested: list[tuple[int, int]]
) -> None:
    data = make_data(cache_dir=str(tmp_path))
    data.prepare_data()
    before = files(path_of(data))
    for name in ("state.json", "dataset_info.json", "cache.json", "sources.safetensors"):
        (path_of(data) / name).unlink()
    harvested.clear()
    again = make_data(cache_dir=str(tmp_path))
    again.prepare_data()
    assert harvested == []
    assert files(path_of(again)) == before


def test_a_cache_of_other_settings_is_not_touched(make_data: MakeData, tmp_path: Path) -> None:
    one = make_data(cache_dir=str(tmp_path))
    one.prepare_data()
    before = files(path_of(one))
    make_data(cache_dir=str(tmp_path), seed=1).prepare_data()
    assert files(path_of(one)) == before


def test_without_preparation_batches_are_harvested_as_without_a_cache(make_data: MakeData, tmp_path: Path) -> None:
    live = make_data(model_batch_size=24)
    loader = make_data(model_batch_size=24, cache_dir=str(tmp_path)).train_dataloader()
    loader.load_state_dict({"given": 12})
    resumed = list(loader)
    for ours, theirs in zip(resumed, list(live.train_dataloader())[12:], strict=True):
        assert ours.table.equal(theirs.table)
        assert all(ours.activations[hook].equal(theirs.activations[hook]) for hook in live.hook_names)
