"""A comparison: what it makes, measures, keeps and takes over."""

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig

from itda_lightning import ActivationsDataModule
from itda_lightning.compare import main
from itda_lightning.comparison import candidates, side_by_side
from itda_lightning.comparison.bench import Bench
from itda_lightning.comparison.comparison_settings import (
    ComparisonSettings,
    EntrySettings,
    FitSettings,
    PCASettings,
)
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.results.as_json import from_json
from itda_lightning.results.comparison import MEASURES, Comparison, Encoding, Row
from tests.comparisons import FIT, TRAIN
from tests.runs import CONTEXT, HOOK, K
from tests.tiny_model import WIDTH


@pytest.fixture(scope="module")
def all_ways(on_disk) -> dict[str, Any]:
    names = {"A run": "run", "As itda": "itda", "As matching pursuit": "matching_pursuit", "Trained before": "trained"}
    return {name: {"load": str(on_disk[kind])} for name, kind in names.items()} | {
        "ITDA, OMP": {"fit": FIT},
        "TopK": {"train": TRAIN | {"seed": 1}},
    }


@pytest.fixture(scope="module")
def finished(config_of, all_ways, tmp_path_factory) -> tuple[Path, Path]:
    """Directory and config of a comparison that ran once."""
    directory = tmp_path_factory.mktemp("comparison") / "deep" / "out"
    config = config_of(directory, all_ways, latents=True, atoms_shown=12)
    assert main(["--config", str(config)]) == 0
    return directory, config


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    return shutil.copytree(finished[0], tmp_path / "out")


def written(directory: Path) -> Comparison:
    return from_json((directory / "comparison.json").read_text(), Comparison)


def test_all_kinds_of_entries_are_measured_and_controls_are_added_once(finished, all_ways, on_disk):
    rows = {row.name: row for row in written(finished[0]).rows}
    n, of_fit = load_dictionary(on_disk["run"]).n_atoms, rows["ITDA, OMP"].width
    drawn = [f"{n} random atoms", f"{of_fit} random atoms"]
    assert list(rows) == [*all_ways, drawn[0], "4 principal components", drawn[1]]
    assert [row.kind for row in rows.values()] == ["itda"] * 3 + ["sae", "itda", "sae", "random", "pca", "random"]
    widths = [n, n, n, 24, of_fit, 24, n, 4, of_fit]
    assert [row.width for row in rows.values()] == widths
    for row in rows.values():
        assert row.failure is None
        assert not row.reused
        assert tuple(row.measures) == MEASURES
        assert row.cost.encoded_per_second > 0
        assert row.cost.harvest_seconds > 0
        assert len(row.densities) == row.width
    assert len({row.tokens_hash for row in rows.values()}) == 1
    assert len({row.identity for row in rows.values()}) == len(rows)
    assert rows["As itda"].measures == rows["A run"].measures
    assert rows[drawn[1]].settings["pursuit"] == "omp"
    assert rows["TopK"].curve[-1][0] == rows["Trained before"].curve[-1][0] == 1024


def test_what_is_written(finished, all_ways, on_disk, tiny_model_dir, prose_file):
    directory, _ = finished
    comparison = written(directory)
    assert sorted(path.name for path in directory.iterdir()) == ["comparison.html", "comparison.json", "made", "rows"]
    assert len(list((directory / "made").iterdir())) == 5
    kept = [from_json(path.read_text(), Row) for path in (directory / "rows").iterdir()]
    assert {row.name: row for row in kept} == {row.name: row for row in comparison.rows}
    page = (directory / "comparison.html").read_text()
    assert all(name in page for name in all_ways)
    assert comparison.title == f"{tiny_model_dir}, at {HOOK}"
    assert comparison.facts["loss tokens"] == "128"
    assert comparison.facts["training tokens"] == "1,920"
    assert comparison.facts["held-out tokens' hash"] == comparison.rows[0].tokens_hash
    assert comparison.facts["dataset"] == str(prose_file)
    assert comparison.facts["dataset fingerprint"] == load_dictionary(on_disk["run"]).dataset[:12]


def test_atoms_of_the_first_itda_are_shown_beside_saes_first(finished):
    latents = written(finished[0]).latents
    assert latents.reference == "A run"
    assert len(latents.atoms) == 12
    assert [other.name for other in latents.others] == ["Trained before", "TopK", "As itda", "As matching pursuit"]
    assert all(source is not None for source in latents.sources)


def test_figures_are_there_though_the_latents_fail(copied, config_of, on_disk, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no latents today")

    monkeypatch.setattr("itda_lightning.comparison.side_by_side.latent_view", fail)
    (copied / "comparison.html").unlink()
    with pytest.raises(RuntimeError, match="no latents today"):
        main(["--config", str(config_of(copied, {"A run": {"load": str(on_disk["run"])}}, latents=True))])
    assert written(copied).rows[0].name == "A run"
    assert "A run" in (copied / "comparison.html").read_text()


@pytest.fixture
def nothing_is_measured(monkeypatch):
    """Any model, any making and any measuring fails the test."""
    monkeypatch.setattr("itda_lightning.activations.model_and_rows.LanguageModel", pytest.fail)
    monkeypatch.setattr(candidates, "_make", pytest.fail)
    monkeypatch.setattr(Bench, "measure", pytest.fail)


@pytest.mark.usefixtures("nothing_is_measured")
def test_a_second_run_takes_over_all_rows_and_says_so(copied, config_of, all_ways, finished, capsys):
    assert main(["--config", str(config_of(copied, all_ways))]) == 0
    out = capsys.readouterr().out
    first, second = written(finished[0]), written(copied)
    assert f"taken over from an earlier run: {', '.join(row.name for row in first.rows)}" in " ".join(out.split())
    assert out.splitlines()[-1] == f"page: {copied / 'comparison.html'}"
    assert all(row.reused for row in second.rows)
    for one, other in zip(first.rows, second.rows, strict=True):
        assert (one.name, one.measures, one.cost) == (other.name, other.measures, other.cost)
    assert second.latents is None


@pytest.mark.usefixtures("nothing_is_measured")
def test_a_row_is_taken_over_under_another_name(copied, config_of, on_disk):
    config = config_of(copied, {"Renamed ⚑": {"load": str(on_disk["run"])}, "Also": {"fit": FIT}}, controls=False)
    assert main(["--config", str(config)]) == 0
    assert [(row.name, row.reused) for row in written(copied).rows] == [("Renamed ⚑", True), ("Also", True)]


@pytest.mark.parametrize("changes", [{"loss_tokens": 10 * CONTEXT}, {"data": {"validation_tokens": 30 * CONTEXT}}])
def test_other_tokens_are_measured_again_but_nothing_is_made_again(copied, config_of, all_ways, changes, monkeypatch):
    monkeypatch.setattr(candidates, "_make", pytest.fail)
    before = {row.name: row for row in written(copied).rows}
    entries = {name: all_ways[name] for name in ("A run", "ITDA, OMP", "TopK")}
    assert main(["--config", str(config_of(copied, entries, **changes))]) == 0
    rows = written(copied).rows
    assert [row.kind for row in rows] == ["itda", "itda", "sae", "random", "pca", "random"]
    for row in rows:
        assert not row.reused
        assert row.tokens_hash != before[row.name].tokens_hash
        of_losses, of_all = (
            row.measures[name] != before[row.name].measures[name] for name in ("kl_div_with_sae", "fvu")
        )
        assert (of_losses, of_all) == ((True, False) if "loss_tokens" in changes else (False, True))


def test_a_row_that_cannot_be_read_is_measured_again(copied, config_of, on_disk, caplog):
    (path,) = (copied / "rows").glob("a-run-*.json")
    whole = from_json(path.read_text(), Row)
    path.write_text(path.read_text()[:200])
    assert main(["--config", str(config_of(copied, {"A run": {"load": str(on_disk["run"])}}, controls=False))]) == 0
    assert f"{path} cannot be taken over" in caplog.text
    (row,) = written(copied).rows
    assert (row.reused, row.measures) == (False, whole.measures)
    assert from_json(path.read_text(), Row) == row


def test_an_entry_that_fails_costs_no_other(config_of, on_disk, tmp_path, capsys, monkeypatch, caplog):
    make = candidates._make

    def sometimes(wanted, *args):
        if wanted.name == "Broken":
            raise RuntimeError("the disk caught fire")
        return make(wanted, *args)

    monkeypatch.setattr(candidates, "_make", sometimes)
    entries = {
        "Lost": {"load": str(on_disk["nan"])},
        "Broken": {"pca": {"k": 5}},
        "Too many": {"random": {"n_atoms": 10**6}},
        "Whole": {"load": str(on_disk["trained"])},
    }
    assert main(["--config", str(config_of(tmp_path / "out", entries))]) == 1
    rows = {row.name: row for row in written(tmp_path / "out").rows}
    assert list(rows) == list(entries)
    assert "make the model's loss infinite or undefined: check its weights" in rows["Lost"].failure
    assert rows["Broken"].failure == "RuntimeError: the disk caught fire"
    assert rows["Too many"].failure.startswith("n_atoms must lie between 1 and ")
    assert [row.kind for row in rows.values()] == ["sae", "pca", "random", "sae"]
    assert rows["Whole"].failure is None
    assert rows["Whole"].value("fvu") < 1.5
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1] == "3 of 4 entries failed: Lost, Broken, Too many"
    assert "the disk caught fire" in (tmp_path / "out" / "comparison.html").read_text()
    assert [path.name.split("-")[0] for path in (tmp_path / "out" / "rows").iterdir()] == ["whole"]
    assert "Traceback" in caplog.text, "what is nobody's fault shows where it came from"
    monkeypatch.undo()
    assert main(["--config", str(config_of(tmp_path / "out", entries | {"Too many": {"random": {"n_atoms": 5}}}))]) == 1
    again = written(tmp_path / "out").rows
    assert [(row.failure is None, row.reused) for row in again] == [
        (False, False),
        (True, False),
        (True, False),
        (True, True),
    ]


@pytest.fixture
def names_and_tokens(monkeypatch, data_section, tmp_path):
    """Compares entries without measuring them; returns (name, kind, tokens) of every row."""

    def row_of(entry: EntrySettings, *_: object) -> Row:
        encoding = Encoding(K, "omp", nonnegative=False, centred=True) if entry.fit is not None else None
        settings = {"tokens": str(entry.chosen.tokens)}
        return Row(entry.name, candidates.KINDS[entry.way], width=30, settings=settings, encoding=encoding)

    def compared(*entries: EntrySettings) -> list[tuple[str, str, str]]:
        settings = ComparisonSettings(list(entries), str(tmp_path), latents=False, loss_tokens=8 * CONTEXT)
        rows = side_by_side.compare(settings, ActivationsDataModule(**data_section), publish=lambda _: None).rows
        return [(row.name, row.kind, row.settings["tokens"]) for row in rows]

    monkeypatch.setattr(side_by_side, "_row", row_of)
    return compared


def test_controls_of_other_tokens_have_names_of_their_own(names_and_tokens):
    some = EntrySettings("A", fit=FitSettings(30, K, tokens=640))
    rows = names_and_tokens(
        some, EntrySettings("B", fit=FitSettings(30, K)), EntrySettings("4 principal components", pca=PCASettings(2))
    )
    assert rows[3:] == [
        ("30 random atoms", "random", "640"),
        ("4 principal components, for A", "pca", "640"),
        ("30 random atoms, for B", "random", "None"),
        ("4 principal components, for B", "pca", "None"),
    ]


def test_a_control_that_was_asked_for_is_not_added(names_and_tokens):
    rows = names_and_tokens(EntrySettings("A", fit=FitSettings(30, K)), EntrySettings("My own", pca=PCASettings(K)))
    assert [name for name, _, _ in rows] == ["A", "My own", "30 random atoms"]


def test_controls_of_a_pruned_itda_have_its_mean_l0(config_of, tmp_path):
    config = config_of(tmp_path / "out", {"Pruned": {"fit": FIT | {"l0": 2.2}}})
    assert main(["--config", str(config)]) == 0
    itda, drawn, components = written(tmp_path / "out").rows
    assert itda.encoding.least_gain > 0
    assert itda.value("l0") == pytest.approx(2.2, abs=0.1)
    assert drawn.encoding.least_gain > 0
    assert drawn.value("l0") == pytest.approx(itda.value("l0"), abs=0.1)
    assert components.name == "2 principal components"
    assert components.value("l0") == pytest.approx(2)
    assert sum(components.densities) == pytest.approx(2)


def test_controls_that_are_listed_are_added(config_of, tmp_path):
    entries = {"ITDA": {"fit": FIT}, "TopK": {"train": TRAIN}}
    config = config_of(tmp_path / "out", entries, controls=["kmeans", "frozen"])
    assert main(["--config", str(config)]) == 0
    rows = written(tmp_path / "out").rows
    n = rows[0].width
    assert [row.name for row in rows] == ["ITDA", "TopK", f"{n} k-means centroids", "TopK, frozen decoder"]
    assert [row.kind for row in rows] == ["itda", "sae", "kmeans", "frozen"]
    assert (rows[2].width, rows[2].encoding) == (n, rows[0].encoding)
    assert (rows[3].width, rows[3].architecture) == (24, "topk")
    page = (tmp_path / "out" / "comparison.html").read_text()
    for label in ("k-means centroids, OMP", "TopK SAE, frozen decoder"):
        assert label in page


def test_an_sae_that_does_not_say_its_hook_point_is_of_the_one_compared(config_of, tmp_path):
    StandardSAE(StandardSAEConfig(d_in=WIDTH, d_sae=8)).save_model(tmp_path / "sae")
    config = config_of(tmp_path / "out", {"A": {"load": str(tmp_path / "sae")}})
    assert main(["--config", str(config)]) == 0


def test_one_of_a_run_of_several_hook_points(config_of, tiny_run_of_two, tmp_path):
    config = config_of(tmp_path / "out", {"A": {"load": str(tiny_run_of_two)}}, controls=False)
    assert main(["--config", str(config)]) == 0
    (row,) = written(tmp_path / "out").rows
    assert row.width == load_dictionary(tiny_run_of_two, HOOK).n_atoms


def test_without_a_cache_what_is_loaded_is_measured(config_of, on_disk, finished, tmp_path):
    entries = {"A run": {"load": str(on_disk["run"])}}
    config = config_of(tmp_path / "out", entries, {"cache_dir": None}, controls=False)
    assert main(["--config", str(config)]) == 0
    (row,) = written(tmp_path / "out").rows
    assert row.value("fvu") == pytest.approx(written(finished[0]).rows[0].value("fvu"), rel=1e-5)


@pytest.fixture(autouse=True)
def messages(caplog):
    """What the command logs reaches ``caplog``; its own settings of the logger do not outlive a test."""
    logger = logging.getLogger("itda_lightning")
    level = logger.level
    yield
    logger.setLevel(level)
