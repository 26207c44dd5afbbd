"""A function that is called after an import: once, in either order, and never by who only looks for the package."""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

from itda_lightning.machine.after_import import call_after_import

PACKAGE = "imported_later"


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    (tmp_path / f"{PACKAGE}.py").write_text("value = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.delitem(sys.modules, PACKAGE, raising=False)
    importlib.invalidate_caches()
    yield []
    sys.modules.pop(PACKAGE, None)


def test_it_is_called_once_when_the_package_is_whole(calls: list[bool]) -> None:
    finders = list(sys.meta_path)
    call_after_import(PACKAGE, lambda: calls.append(sys.modules[PACKAGE].value == 3))
    assert calls == []
    module = importlib.import_module(PACKAGE)
    assert calls == [True]
    assert sys.meta_path == finders
    assert isinstance(module.__spec__.loader, SourceFileLoader)
    assert module.__loader__ is module.__spec__.loader
    importlib.reload(module)
    assert calls == [True]


def test_it_is_called_at_once_if_the_package_is_there(calls: list[bool]) -> None:
    importlib.import_module(PACKAGE)
    call_after_import(PACKAGE, lambda: calls.append(True))
    assert calls == [True]


def test_looking_for_the_package_does_not_call_it(calls: list[bool]) -> None:
    call_after_import(PACKAGE, lambda: calls.append(True))
    assert importlib.util.find_spec(PACKAGE) is not None
    assert calls == []
    importlib.import_module(PACKAGE)
    assert calls == [True]


def test_a_package_that_is_missing_or_fails_raises_what_it_raises(calls: list[bool], tmp_path: Path) -> None:
    call_after_import(PACKAGE, lambda: calls.append(True))
    call_after_import("not_installed_anywhere", lambda: calls.append(True))
    with pytest.raises(ModuleNotFoundError, match="not_installed_anywhere"):
        importlib.import_module("not_installed_anywhere")
    (tmp_path / f"{PACKAGE}.py").write_text("raise RuntimeError('it fails')")
    with pytest.raises(RuntimeError, match="it fails"):
        importlib.import_module(PACKAGE)
    assert calls == []
    (tmp_path / f"{PACKAGE}.py").write_text("value = 4  # mended")
    importlib.invalidate_caches()
    assert importlib.import_module(PACKAGE).value == 4
    assert calls == [True]
