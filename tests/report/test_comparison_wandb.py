"""A comparison on Weights & Biases, offline; and nothing of it ever stops a comparison."""

import importlib.util
import json
from pathlib import Path

import pytest
import wandb

from itda_lightning.report.wandb_log import log_comparison
from itda_lightning.results.comparison import Comparison, Row
from tests.report.comparisons import realistic


@pytest.fixture
def offline(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    return tmp_path / "comparison"


def tables(directory: Path) -> dict[str, dict]:
    found = directory.glob("wandb/offline-run-*/files/media/table/comparison/*.table.json")
    return {file.name.partition("_table_")[0].partition("_0_")[0]: json.loads(file.read_text()) for file in found}


def test_figures_are_logged_as_tables_and_plots(offline):
    comparison = realistic(5)
    log_comparison(comparison, "project-of-the-test", offline)
    logged = tables(offline)
    quality = {"fvu", "ce_loss_increase", "kl_div_with_sae"}
    scatters = {f"{measure}_against_{cost}" for measure in quality for cost in ("l0", "activations_seen", "seconds")}
    assert set(logged) == {"entries", "probing", "curves", "densities"} | scatters
    entries = logged["entries"]
    row = dict(zip(entries["columns"], entries["data"][0], strict=True))
    assert (row["entry"], row["fvu"], row["cost/activations_seen"]) == ("itda-mp-1k", 0.262, 198_354)
    assert row["fvu error"] == pytest.approx(0.0123 * 0.262)
    failed = dict(zip(entries["columns"], entries["data"][15], strict=True))
    assert failed["failure"].startswith("the release")
    assert failed["fvu"] is None
    assert len(logged["fvu_against_l0"]["data"]) == 15
    (page,) = offline.glob("wandb/offline-run-*/files/media/html/comparison/dashboard*.html")
    assert "<h1>ITDA beside SAEs" in page.read_text()
    # The run is over: another may begin.
    assert wandb.run is None


def test_a_comparison_without_figures_is_logged_too(offline):
    log_comparison(Comparison("t", {}, (Row("a", "sae", failure="gone"),)), "p", offline)
    assert set(tables(offline)) == {"entries"}


def test_what_goes_wrong_is_a_warning(offline, monkeypatch, caplog):
    def broken(*_: object, **__: object) -> None:
        raise ConnectionError("gone")

    monkeypatch.setattr(wandb, "Table", broken)
    log_comparison(realistic(5), "p", offline)
    assert "could not log the comparison to W&B: gone" in caplog.text
    assert wandb.run is None


def test_without_wandb_there_is_a_warning(offline, monkeypatch, caplog):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else find(name, *rest))
    log_comparison(realistic(5), "p", offline)
    assert "wandb is not installed: the comparison is not logged there" in caplog.text
