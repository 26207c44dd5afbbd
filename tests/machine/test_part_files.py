"""Temporary names cannot be foreseen, and what killed processes left under them is removed, nothing else."""

import os
import re
import stat
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from itda_lightning.errors import InputError
from itda_lightning.machine import part_files
from itda_lightning.machine.atomic_files import new_directory, write_file, write_text
from itda_lightning.machine.part_files import is_part, part_of, remove_parts

NO_PROCESS = 2**22 + 7  # above the largest number that Linux gives


def test_names_are_new_and_short_enough_and_no_finished_file_has_one(tmp_path):
    with part_of(tmp_path / "result") as one, part_of(tmp_path / "result") as other:
        assert one != other
        assert is_part(one)
        assert one.parent == tmp_path
        assert len(set(re.split(r"[-.]", one.name)) & set(re.split(r"[-.]", other.name))) == 5  # all but the token
    write_text(tmp_path / ("ä" * 127), "x")
    assert [is_part(path) for path in tmp_path.iterdir()] == [False]


def test_a_link_planted_under_the_temporary_name_is_not_followed(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("old")
    monkeypatch.setattr(part_files.secrets, "token_hex", lambda _: "0" * 16)
    with part_of(tmp_path / "x") as name:
        pass
    monkeypatch.setattr(part_files, "_remove_if_left", lambda *_: None)
    name.symlink_to(victim)
    with pytest.raises(InputError, match=r"^not permitted while writing .*x \(File exists\)"):
        write_text(tmp_path / "x", "new")
    assert victim.read_text() == "old"


def left_by(path: Path, machine: str | None, process: int, directory: bool) -> Path:
    middle = f"{process}" if machine is None else f"{machine}-{process}-{'0' * 16}"
    part = path.with_name(f".{path.name}.{middle}.part")
    part.mkdir() if directory else part.write_text("half")
    return part


@pytest.mark.parametrize("directory", [False, True])
def test_what_the_dead_left_is_removed_by_the_next_that_writes_there(tmp_path, directory):
    own, week = part_files._machine(), 8 * 24 * 3600
    dead = [left_by(tmp_path / "step3", own, NO_PROCESS, directory), left_by(tmp_path / "x", None, NO_PROCESS, False)]
    dead.append(left_by(tmp_path / "again", own, os.getpid(), directory))  # of a process that had this number before
    reused = left_by(tmp_path / "reused", own, os.getppid(), directory)  # older than the process of that number
    elsewhere = left_by(tmp_path / "elsewhere", "00000000", 1, directory)
    for path in (reused, elsewhere):
        os.utime(path, (time.time() - 10 * week,) * 2)
    living = [left_by(tmp_path / "living", own, os.getppid(), directory)]
    living.append(left_by(tmp_path / "there", "00000000", 1, directory))
    foreign = tmp_path / f".download.{NO_PROCESS}.part"  # as another program may name it
    foreign.touch()
    write_text(tmp_path / "x", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([foreign.name, "x", *(p.name for p in living)])
    assert (tmp_path / "x").read_text() == "new"
    remove_parts(tmp_path)  # the directory is this package's own
    assert not foreign.exists()


def test_what_is_being_written_stays(tmp_path):
    def write(temporary: Path) -> None:
        temporary.write_text("one")
        write_text(tmp_path / "other", "x")
        remove_parts(tmp_path)

    write_file(tmp_path / "one", write)
    with new_directory(tmp_path / "made") as directory:
        write_text(tmp_path / "another", "x")
        (directory / "file").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["another", "made", "one", "other"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_the_umask_decides_who_may_read(tmp_path, mask, mode):
    def save(path: Path) -> None:
        save_file({"x": torch.ones(1)}, path)

    before = os.umask(mask)
    try:
        write_file(tmp_path / "one.safetensors", save)
        with new_directory(tmp_path / "made") as directory:
            save(directory / "two.safetensors")
    finally:
        os.umask(before)
    for name in ("one.safetensors", "made/two.safetensors"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode
