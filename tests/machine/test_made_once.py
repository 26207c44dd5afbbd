"""Compute once and keep under a hash."""

import os
from pathlib import Path

import pytest

from itda_lightning.errors import InputError
from itda_lightning.machine.made_once import hash_of, made_once


def test_the_hash_tells_values_apart_and_not_the_order_of_keys():
    assert hash_of({"a": 1, "b": [2]}) == hash_of({"b": [2], "a": 1}) != hash_of({"a": 1, "b": [3]})
    # Directories that earlier versions made are found again.
    assert hash_of({"a": 1, "b": [2]}) == "ae8a9a5052464275"


def test_it_is_made_once(tmp_path):
    calls = []

    def make(directory: Path) -> None:
        calls.append(directory)
        (directory / "file").write_text("content")

    for _ in range(2):
        assert made_once(tmp_path / "a" / "place", make) == tmp_path / "a" / "place"
    assert len(calls) == 1
    assert (tmp_path / "a" / "place" / "file").read_text() == "content"


def test_what_fails_leaves_nothing(tmp_path):
    def make(directory: Path) -> None:
        (directory / "file").write_text("half")
        raise InputError("no")

    with pytest.raises(InputError, match=r"^no$"):
        made_once(tmp_path / "place", make)
    assert list(tmp_path.iterdir()) == []


def test_another_process_may_be_faster(tmp_path):
    def make(directory: Path) -> None:
        (tmp_path / "place").mkdir()
        (tmp_path / "place" / "file").write_text("theirs")
        (directory / "file").write_text(f"of {os.getpid()}")

    assert made_once(tmp_path / "place", make) == tmp_path / "place"
    assert (tmp_path / "place" / "file").read_text() == "theirs"
    assert len(list(tmp_path.iterdir())) == 1
