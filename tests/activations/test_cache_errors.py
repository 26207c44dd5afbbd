"""Failures of a cache are explained and never leave a wrong cache behind."""

import errno
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets.arrow_writer import ArrowWriter

from itda_lightning.activations import arrow_files, datamodule
from itda_lightning.activations import cache as cache_module
from itda_lightning.activations.cache import ActivationCache
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.shuffled import TrainingRows
from itda_lightning.errors import InputError
from itda_lightning.machine.digests import DIGEST
from tests.activations.conftest import HOOK, MakeData
from tests.tiny_model import save_weights


def train_cache(data: ActivationsDataModule) -> ActivationCache:
    cache = data.cache("train")
    assert cache is not None
    return cache


@pytest.fixture(scope="module")
def original() -> list[Path]:
    """The cache of which tests damage copies, once it is filled."""
    return []


@pytest.fixture
def filled(make_data: MakeData, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, original: list[Path]) -> Path:
    """A complete cache."""
    if not original:
        data = make_data(cache_dir=str(tmp_path_factory.mktemp("original")))
        data.prepare_data()
        original.append(train_cache(data).path)
    shutil.copytree(original[0].parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / original[0].name


@pytest.fixture
def read(make_data: MakeData, tmp_path: Path):
    """Read the cache of the usual settings from the start, as a new process does."""
    return lambda **changes: list(make_data(**({"cache_dir": str(tmp_path)} | changes)).train_dataloader())


@pytest.mark.parametrize("left", [0, 100, 0.5, 0.99])
@pytest.mark.parametrize("shard", [0, 2])
def test_a_truncated_file(filled: Path, read, shard: int, left: float) -> None:
    file = filled / f"data-0000{shard}-of-00003.arrow"
    os.truncate(file, left if isinstance(left, int) else int(left * file.stat().st_size))
    with pytest.raises(InputError, match=rf"the activation cache {filled} is truncated or foreign \(.*remove it and"):
        read()


def test_a_missing_file(filled: Path, read) -> None:
    (filled / "data-00001-of-00003.arrow").unlink()
    with pytest.raises(InputError, match=r"is truncated or foreign \(.*\): remove it and run again"):
        read()


def test_a_file_put_in_the_place_of_another(filled: Path, read) -> None:
    shutil.copy(filled / "data-00002-of-00003.arrow", filled / "data-00001-of-00003.arrow")
    with pytest.raises(InputError, match=r"is truncated or foreign \(88 rows of "):
        read()
    shutil.copy(filled / "data-00000-of-00003.arrow", filled / "data-00001-of-00003.arrow")
    with pytest.raises(InputError, match=rf"the activation cache {filled} holds other tokens: remove it and run again"):
        read()


def flip_a_byte(file: Path) -> None:
    """Change one activation; the size and everything that describes the file stay."""
    content = bytearray(file.read_bytes())
    content[len(content) // 4] ^= 0x40
    file.write_bytes(content)


@pytest.mark.parametrize("shard", [0, 1, 2])  # the last one is short
def test_a_file_with_one_flipped_bit(filled: Path, read, shard: int) -> None:
    file = filled / f"data-0000{shard}-of-00003.arrow"
    flip_a_byte(file)
    message = rf"{file} is damaged \(its checksum is not that in checksums.xxh128\): remove it and state.json beside"
    with pytest.raises(InputError, match=message):
        read()


@pytest.mark.parametrize("left", [None, "", "0123456789abcdef"])
def test_a_file_that_is_removed_or_was_not_signed_is_harvested_again(
    filled: Path, make_data: MakeData, tmp_path: Path, left: str | None
) -> None:
    """A kill between writing and signing leaves a file that looks whole, and at most half a line of checksums."""
    before = {file.name: file.read_bytes() for file in filled.iterdir()}
    flip_a_byte(filled / "data-00001-of-00003.arrow")  # it may not have reached the disk
    (filled / "state.json").unlink()
    (filled / f".data-00000-of-00003.arrow.{2**30}.part").touch()  # no process has that number
    if left is None:
        (filled / "data-00001-of-00003.arrow").unlink()
    else:
        first, second, third = (filled / "checksums.xxh128").read_text().splitlines(keepends=True)
        assert second.endswith("  data-00001-of-00003.arrow\n")
        (filled / "checksums.xxh128").write_text(first + third + left)
    again = make_data(cache_dir=str(tmp_path))
    again.prepare_data()
    assert again.harvested_tokens == 64 * 16
    assert {file.name: file.read_bytes() for file in filled.iterdir()} == before


@pytest.mark.parametrize("content", ["{}", "not JSON", "[]"])
def test_a_foreign_directory(filled: Path, read, content: str) -> None:
    shutil.rmtree(filled)
    filled.mkdir()
    (filled / "state.json").write_text(content)
    with pytest.raises(InputError, match=r"is truncated or foreign"):
        read()


def test_a_cache_of_another_model_under_this_name(filled: Path, make_data: MakeData, tmp_path: Path) -> None:
    other = make_data(cache_dir=str(tmp_path), hook_names=["blocks.0.hook_resid_post"])
    filled.rename(train_cache(other).path)
    with pytest.raises(
        InputError, match=r"truncated or foreign \(140 rows of \['blocks.1.hook_resid_post', 'token_ids'"
    ):
        _ = train_cache(other).widths


def test_too_little_space_is_said_before_the_model_runs(
    make_data: MakeData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda path: SimpleNamespace(free=250_000))
    monkeypatch.setattr(datamodule, "harvest", lambda *arguments: pytest.fail("the model runs"))
    with pytest.raises(
        InputError,
        match=rf"the activation cache needs 277.2 kB but {tmp_path}/activations-\w+ has 250.0 kB free: lower "
        "training_tokens, set cache_dtype=bfloat16, or choose another cache_dir",
    ):
        make_data(cache_dir=str(tmp_path)).prepare_data()


def test_a_cache_that_is_almost_there_needs_only_the_rest(
    filled: Path, make_data: MakeData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (filled / "state.json").unlink()
    (filled / "data-00002-of-00003.arrow").unlink()
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda path: SimpleNamespace(free=200_000))
    data = make_data(cache_dir=str(tmp_path))
    data.prepare_data()
    assert train_cache(data).complete


def test_a_full_disk_keeps_what_is_whole(make_data: MakeData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finalize, calls = ArrowWriter.finalize, []

    def full(writer: Any, *arguments: Any) -> Any:
        calls.append(writer)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return finalize(writer, *arguments)

    monkeypatch.setattr(ArrowWriter, "finalize", full)
    data = make_data(cache_dir=str(tmp_path))
    path = train_cache(data).path
    with pytest.raises(
        InputError, match=rf"no space left while writing {path}/data-00001.*what was written before is un"
    ):
        data.prepare_data()
    assert sorted(file.name for file in path.iterdir()) == ["checksums.xxh128", "data-00000-of-00003.arrow"]
    assert not train_cache(data).complete
    monkeypatch.undo()
    again = make_data(cache_dir=str(tmp_path))
    again.prepare_data()
    assert again.harvested_tokens == (140 - 64) * 16 + 512
    assert len(list(again.train_dataloader())) == len(again.train_dataloader())


def test_activations_beyond_float16_are_refused_and_not_stored(
    make_data: MakeData, tiny_model_dir: Path, tmp_path: Path
) -> None:
    huge = Path(shutil.copytree(tiny_model_dir, tmp_path / "huge"))
    save_weights(huge, seed=0, scale=1e6)
    settings = {"model": str(huge), "cache_dir": str(tmp_path)}
    data = make_data(cache_dtype="float16", **settings)
    with pytest.raises(
        InputError,
        match=rf"activations at {HOOK} reach [\d.e+]+, more than float16 holds: use cache_dtype=bfloat16 or float32",
    ) as refused:
        data.prepare_data()
    assert float(str(refused.value).split("reach ")[1].split(",")[0]) > 65504
    assert list(train_cache(data).path.iterdir()) == []
    wide = make_data(cache_dtype="bfloat16", **settings)
    wide.prepare_data()
    assert next(iter(wide.train_dataloader())).activations[HOOK].abs().max() > 65504


def test_a_cache_directory_that_cannot_be_one(make_data: MakeData, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"not permitted while writing .*file/activations-\w+ \(Not a directory\)"):
        make_data(cache_dir=str(tmp_path / "file")).prepare_data()


def test_an_unknown_cache_dtype(make_data: MakeData, tmp_path: Path) -> None:
    rows = make_data().rows("train")
    with pytest.raises(InputError, match=r"cache_dtype must be one of \('float32', .*\), got 'int8'"):
        ActivationCache(tmp_path, rows, make_data().identity._replace(cache_dtype="int8"))


def flip(file: Path, place: float) -> None:
    """Change one byte of the activations of a file."""
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("place", [0.4, 0.9])
def test_a_file_that_is_read_in_part_is_verified(
    filled: Path, make_data: MakeData, tmp_path: Path, place: float
) -> None:
    flip(filled / "data-00000-of-00003.arrow", place)
    few = make_data(cache_dir=str(tmp_path), first_tokens=5 * 16)
    refused = (
        r"data-00000-of-00003.arrow is damaged \(its checksum is not that in checksums.xxh128\): remove it and state"
    )
    for read in (
        lambda: list(few.train_dataloader()),
        lambda: few.calibration_batch(10),
        lambda: TrainingRows(few, HOOK, 3 * 16).read(0, 1),
        lambda: TrainingRows(few, HOOK).at(torch.tensor([[2, 3]])),
        lambda: train_cache(few).read(62, 63),
        lambda: train_cache(few).read_at(torch.tensor([139, 1])),
    ):
        with pytest.raises(InputError, match=refused):
            read()
    assert len(train_cache(few).read(64, 66).activations[HOOK]) == 2


def test_a_file_without_a_checksum_beside_others_is_refused(filled: Path, read) -> None:
    lines = (filled / "checksums.xxh128").read_bytes()
    for damaged in (lines[: len(lines) // 2], lines.replace(b"data-00001", b"data-0000\xff"), b""):
        (filled / "checksums.xxh128").write_bytes(damaged)
        with pytest.raises(InputError, match=r"is damaged \(its checksum is not that in checksums.xxh128\)"):
            read()


@pytest.mark.parametrize("error", [OSError(errno.ENOMEM, "Cannot allocate memory"), MemoryError("malloc of size 64")])
def test_too_little_memory_is_not_told_as_damage(
    filled: Path, read, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(path: str) -> None:
        raise error

    monkeypatch.setattr(arrow_files, "load_from_disk", fail)
    with pytest.raises(InputError, match=r"reading the activation cache .* takes more memory .*; nothing is damaged"):
        read()


def test_a_cache_without_a_digest_is_warned_of_and_a_whole_one_is_not(
    filled: Path, read, caplog: pytest.LogCaptureFixture
) -> None:
    read()
    assert "digest" not in caplog.text
    facts = json.loads((filled / "state.json").read_text())
    del facts[DIGEST]
    (filled / "state.json").write_text(json.dumps(facts))
    read()
    assert caplog.text.count(f"{filled / 'state.json'} has no digest (an earlier version") == 1


def test_a_file_is_verified_once(
    filled: Path, make_data: MakeData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[str] = []
    checksum = cache_module.file_checksum
    monkeypatch.setattr(cache_module, "file_checksum", lambda path: verified.append(path.name) or checksum(path))
    cache = train_cache(make_data(cache_dir=str(tmp_path)))
    for _ in range(2):
        cache.read(0, 140)
    assert sorted(verified) == [f"data-0000{number}-of-00003.arrow" for number in range(3)]
