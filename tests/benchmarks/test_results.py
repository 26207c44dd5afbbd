"""The one writer of all studies, and that every script can be run as a module."""

import json
from pathlib import Path

import pytest

from benchmarks.results import Study, commit, describe, environment, table, write_results

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_results_say_what_was_measured_and_where(tmp_path):
    result = {**describe(Study("growth", model="m", tokens=5)), "rows": [{"fvu": float("nan"), "atoms": (1, 2)}]}
    write_results(tmp_path, "growth", result, "| a |\n")
    kept = json.loads((tmp_path / "growth.json").read_text(encoding="utf-8"))
    names = {"study", "model", "revision", "hook_name", "dataset", "tokens", "seed", "commit", "threads", "versions"}
    assert set(kept) == names | {"rows"}
    assert (kept["model"], kept["tokens"], kept["commit"]) == ("m", 5, commit())
    assert kept["rows"] == [{"fvu": None, "atoms": [1, 2]}]
    assert (tmp_path / "growth.md").read_text(encoding="utf-8") == "| a |\n"
    assert kept["versions"]["torch"] in environment(kept)
    assert {path.name for path in tmp_path.iterdir()} == {"growth.json", "growth.md"}


def test_a_table_has_as_many_rules_as_columns():
    assert table(["a", "b"], [["1", "2"]]) == ["| a | b |", "|---|---|", "| 1 | 2 |"]


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in BENCHMARKS.glob("*/run.py")), ids=lambda path: path.name
)
def test_a_study_is_a_folder_with_a_readme(folder):
    readme = (folder / "README.md").read_text(encoding="utf-8")
    for script in folder.glob("*.py"):
        if "__main__" in script.read_text(encoding="utf-8"):
            assert f"python -m benchmarks.{folder.name}.{script.stem}" in readme, f"{script.stem} is not in the README"
