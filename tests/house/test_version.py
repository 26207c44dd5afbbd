"""The version is the same wherever it stands, and the links of the package are links."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_project_citation_and_changelog_have_one_version_and_date() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (\S+) \((\d{4}-\d{2}-\d{2})\)$", changelog, flags=re.MULTILINE)
    assert len(versions) == changelog.count("\n## "), "every version has a date"
    assert versions[0] == (PROJECT["version"], str(citation["date-released"]))
    assert citation["version"] == PROJECT["version"]


def test_bounds_of_saelens_are_the_versions_that_were_tried() -> None:
    """Before sae-lens 6.54.9 BatchTopK trains to another sparsity; transformer-lens 4 breaks sae-lens at import."""
    assert {"sae-lens>=6.54.9", "transformer-lens>=3.0,<4"} <= set(PROJECT["dependencies"])


def test_links_are_addresses() -> None:
    assert {"Homepage", "Repository", "Documentation", "Changelog", "Issues"} <= set(PROJECT["urls"])
    assert all(address.startswith("https://") for address in PROJECT["urls"].values())
