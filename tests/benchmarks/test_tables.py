"""The committed tables are those of the committed results."""

import importlib
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# Needs the comparisons of all budgets, of which the results keep the rows.
NOT_WHOLE = ("trained", "large_measures")


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(BENCHMARKS.glob("*/results/*.md")) if path.stem not in NOT_WHOLE],
    ids=lambda path: path.stem,
)
def test_a_table_is_that_of_its_results(path: Path) -> None:
    result = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    name = "benchmarks." + result["study"].replace("/", ".")
    is_script = (BENCHMARKS / f"{result['study']}.py").exists()
    script = importlib.import_module(name if is_script else f"{name}.run")
    written = script.as_markdown(result, path.stem) if result["study"] == "synthetic" else script.as_markdown(result)
    assert path.read_text(encoding="utf-8") == written, f"{name} writes another table than {path}"
