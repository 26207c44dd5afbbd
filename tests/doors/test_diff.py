"""The diff command: its files, its output, and refusals."""

import contextlib
import io
import re
import sys
from pathlib import Path

import pytest

from itda_lightning.diff import diff_command
from itda_lightning.errors import InputError
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.fitting.run_directory import result_directory
from itda_lightning.results.as_json import from_json
from itda_lightning.results.difference import Difference
from tests.other_model import other_model_dir, other_run  # noqa: F401  fixtures
from tests.runs import HOOK, OTHER_HOOK


@pytest.fixture(scope="module")
def finished(tiny_run, other_run, tmp_path_factory) -> tuple[Path, str]:  # noqa: F811
    """Return the directory of a difference, and the printed text."""
    output = tmp_path_factory.mktemp("diff") / "out"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        diff_command(str(tiny_run), str(other_run), str(output), device="cpu", shown=7)
    return output, printed.getvalue()


def test_both_rankings_are_written_and_printed(finished, tiny_run, other_run, other_model_dir) -> None:  # noqa: F811
    output, printed = finished
    difference = from_json((output / "difference.json").read_text(), Difference)
    assert difference.facts["other"] == str(other_model_dir)
    assert difference.facts["base: hook point"] == HOOK
    assert difference.title == f"{Path(difference.facts['base']).name} at {HOOK} and {other_model_dir.name} at {HOOK}"
    for direction, run in zip(difference.directions, (tiny_run, other_run), strict=True):
        assert direction.n_atoms == len(direction.atoms) == load_dictionary(run).n_atoms
        for atom in direction.atoms[:10]:
            assert re.search(rf"^ +{atom.atom} +\d", printed, flags=re.MULTILINE)
    assert f"page: {output.resolve() / 'difference.html'}" in printed


def test_the_page_shows_as_many_as_asked_for(finished) -> None:
    page = (finished[0] / "difference.html").read_text()
    assert page.startswith("<!doctype html>")
    assert page.count("<tr>") == 2 * (1 + 2 * 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shown": 0}, "--shown must be at least 1, got 0"),
        ({"other": "/nowhere/run"}, "/nowhere/run does not exist"),
        ({"other_hook_name": OTHER_HOOK}, f"holds no dictionary of '{OTHER_HOOK}'"),
    ],
)
def test_what_cannot_be_compared_is_refused_and_nothing_is_written(tiny_run, tmp_path, options, message) -> None:
    arguments = {"base": str(tiny_run), "other": str(tiny_run), "output": str(tmp_path / "out"), "device": "cpu"}
    with pytest.raises(InputError, match=re.escape(message)):
        diff_command(**(arguments | options))
    assert not (tmp_path / "out").exists()


def test_a_killed_run_of_the_same_command_is_given_its_directory_again(tmp_path) -> None:
    given = {"diff": ["a", "b"]}
    output = tmp_path / "deep" / "out"

    def killed() -> None:
        with result_directory(str(output), given) as directory:
            (directory / "dictionaries" / "x").mkdir(parents=True)
            sys.exit()  # which cleans as little as a kill

    for _ in range(2):
        with pytest.raises(SystemExit):
            killed()
    with pytest.raises(InputError, match=r"the run directory .*out exists already: a run never overwrites another"):
        result_directory(str(output), {"diff": ["a", "c"]}).__enter__()
    with result_directory(str(output), given) as directory:
        assert [entry.name for entry in directory.iterdir()] == ["unfinished.json"]
        (directory / "difference.json").touch()
    assert [entry.name for entry in output.iterdir()] == ["difference.json"]
    with pytest.raises(InputError, match="exists already"):
        result_directory(str(output), given).__enter__()


def test_a_command_that_fails_before_it_writes_leaves_no_directory(tmp_path) -> None:
    with pytest.raises(InputError, match="no such model"), result_directory(str(tmp_path / "out"), {}):
        raise InputError("no such model")
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_exists_is_left_alone(tiny_run, tmp_path) -> None:
    with pytest.raises(InputError, match="exists already"):
        diff_command(str(tiny_run), str(tiny_run), str(tmp_path), device="cpu")
