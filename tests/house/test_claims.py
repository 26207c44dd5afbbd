"""Every figure of the documents stands in the committed results, and the check of that sees what is wrong."""

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.house.claims import evaluate, faults

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("README.md", "docs/*.md", "benchmarks/README.md", "benchmarks/*/README.md")
    for path in ROOT.glob(pattern)
)
LISTED = yaml.safe_load((ROOT / "benchmarks" / "claims.yaml").read_text(encoding="utf-8"))
# Documents that repeat the figures of others.
SOURCES = {"README.md": ("docs/results.md", "docs/guide.md")}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_figure_stands_in_the_results(document: str) -> None:
    found = faults(document, ROOT, LISTED.get(document, {}), SOURCES.get(document, ()))
    assert not found, "\n".join(["measure again, correct the text, or list it in benchmarks/claims.yaml:", *found])


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*/results/*.json")), ids=lambda path: path.name)
def test_results_name_their_commits(path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["commit"], "the commit that measured it, or another and `commit is`"
    rows = content.get("rows", [])
    if content.get("study") in ("comparison", "synthetic") or path.name == "recorded.json":
        assert all(row["commit"] for row in rows)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study of two rows and a document about it."""
    results = tmp_path / "benchmarks" / "toy" / "results"
    results.mkdir(parents=True)
    rows = [{"name": "ours", "fvu": 0.1213, "ce": 0.0452, "seconds": 243.4, "atoms": 4056}]
    rows += [{"name": "theirs", "fvu": 0.1371, "ce": 0.0489, "seconds": 2047.1, "atoms": 4096}]
    (results / "toy.json").write_text(json.dumps({"rows": rows, "hidden": [1.5e9, 0.777]}))
    return tmp_path


TEXT = """# Toy

Ours has an FVU of .121 in 243 s, 12% of their time; 4,056 atoms came (arXiv 2505.17769).

| | FVU | CE | seconds |
|---|---|---|---|
| ours, 10 T | 0.121 | 0.045 | 243 |
| theirs | .137 | .049 | 2,047 |

```bash
sleep 17.5 s
```
"""
TOY = {"Toy": {"12%": "= 243 / 2047"}}


def of_text(root: Path, text: str, listed: dict[str, dict[str, str]] = TOY) -> list[str]:
    (root / "benchmarks" / "toy" / "README.md").write_text(text)
    return faults("benchmarks/toy/README.md", root, listed)


def test_right_figures_pass(study: Path) -> None:
    assert of_text(study, TEXT) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("0.045 | 243", "0.046 | 243", r":7: no one record has 0\.046"),  # a changed digit in a row
        ("| 243 |", "| 244 |", r":7: no one record has 244"),
        ("of .121", "of .122", r":3: \.122 is nowhere"),  # in prose
        ("243 s,", "253 s,", r":3: 253 s is nowhere"),
        ("4,056", "4,065", r":3: 4,065 is nowhere"),
        ("0.121 | 0.045", "0.121 | 0.049", r":7: no one record has 0\.049"),  # a row mixed from two records
        (".049 | 2,047", ".049 | 243", r":8: no one record has 243"),
        ("12%", "13%", r":3: 13% is nowhere"),  # a ratio without its formula
        ("arXiv 2505.17769", ".555", r":3: \.555 is nowhere"),  # a figure that is nowhere
    ],
)
def test_wrong_figures_are_found(study: Path, old: str, new: str, fault: str) -> None:
    assert TEXT.count(old) == 1
    (found,) = of_text(study, TEXT.replace(old, new))
    assert re.search(fault, found), found


@pytest.mark.parametrize(
    ("why", "fault"),
    [
        ("= 243 / 2048", "2048 of 12% = 243 / 2048 is nowhere"),
        ("= 243 / 1000", "12% is not 243 / 1000, which is 0.243"),
        ("~ 243 / 2047", None),
        ("~ 243 / 1000", "12% is not"),
        ("quoted: a paper", None),
        ("toy/toy.json theirs", "12% is not in toy/toy.json theirs"),
    ],
)
def test_listed_figures_are_checked(study: Path, why: str, fault: str | None) -> None:
    found = of_text(study, TEXT, {"Toy": {"12%": why}})
    assert len(found) == (fault is not None)
    assert fault is None or fault in found[0]


def test_a_figure_like_many_others_has_to_name_its_place(study: Path) -> None:
    many = {"rows": [{"name": f"row {number}", "score": number / 100} for number in range(100)]}
    (study / "benchmarks" / "toy" / "results" / "many.json").write_text(json.dumps(many))
    text = "# Toy\n\nA score of .55.\n"
    assert "list its place" in of_text(study, text, {})[0]
    assert of_text(study, text, {"Toy": {".55": "toy/many.json row 55"}}) == []
    assert ".55 is not in" in of_text(study, text, {"Toy": {".55": "toy/many.json row 56"}})[0]


def test_formulas_are_arithmetic_alone() -> None:
    assert evaluate("(137 + 46) / (270 + 456)") == (183 / 726, ["137", "270", "456"])
    with pytest.raises(ValueError, match="numbers and"):
        evaluate("__import__('os')")
