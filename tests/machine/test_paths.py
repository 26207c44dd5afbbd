"""Paths as users write them."""

import re

import pytest

from itda_lightning.errors import InputError
from itda_lightning.machine.paths import is_directory, user_path


def test_home_directories_are_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/runs") == tmp_path / "runs"
    assert user_path("runs/ü") == user_path(user_path("runs/ü"))
    assert is_directory("~")
    assert not is_directory("~/runs")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--output is empty: give a path"),
        (" ", "--output is empty: give a path"),
        ("a\0b", r"--output 'a\x00b' has a NUL character"),
        ("~nouser-at-all/x", "--output '~nouser-at-all/x' cannot be read (Could not determine home"),
        ("\ud800", r"--output '\ud800' cannot be read ("),
        ("x/" + "é" * 128, "... has a name of more than 255 bytes: give a shorter one"),
        ("x/" * 3000, "has a name of more than 255 bytes"),
    ],
)
def test_what_no_file_system_holds_is_refused(text, message):
    with pytest.raises(InputError, match=re.escape(message)):
        user_path(text, "--output")
    assert not is_directory(text)
