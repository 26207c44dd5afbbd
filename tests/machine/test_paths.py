"""Paths as users write them."""

import re

import pytest

from itda_lightning.errors import InputError
from itda_lightning.machine.paths import is_directory, text_without_home, user_path, without_home


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


@pytest.mark.parametrize("link", [False, True])
def test_what_is_saved_has_a_tilde_for_the_home_directory(tmp_path, monkeypatch, link):
    home = tmp_path / "ann"
    home.mkdir()
    if link:
        (tmp_path / "link").symlink_to(home)
    monkeypatch.setenv("HOME", str(tmp_path / "link" if link else home))
    facts = {"model": f"{home}/m", "near": [f"{home}a/m", f"x{home}/m", str(tmp_path)], "n": 3, f"{home}/best": None}
    said = {"model": "~/m", "near": [f"{home}a/m", f"x{home}/m", str(tmp_path)], "n": 3, "~/best": None}
    assert without_home(facts) == said
    assert without_home(str(home)) == "~/"
    assert user_path(without_home(f"{home}/m")).resolve() == home / "m"
    text = f"dir: {home}/a b\nother: '{home}'\nnot: {home}a, {home}.x, /y{home}/z\n({home}/c) {home}."
    assert text_without_home(text) == f"dir: ~/a b\nother: '~/'\nnot: {home}a, {home}.x, /y{home}/z\n(~/c) ~/."


def test_no_other_path_is_shortened_without_a_home_directory_of_ones_own(monkeypatch):
    monkeypatch.setenv("HOME", "/")
    assert without_home("/data/m") == text_without_home("/data/m") == "/data/m"
