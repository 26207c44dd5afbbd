"""Weights & Biases: metrics under SAELens's names, atoms and the dictionary; and nothing of it ever stops a fit."""

import csv
import importlib.util
import json
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
from lightning.pytorch.loggers import WandbLogger
from wandb.proto import wandb_internal_pb2

from itda_lightning import fit
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.fitting import wandb_logger as wandb_logging
from itda_lightning.fitting.wandb_logger import make_wandb_logger
from tests.fits import HOOK, fit_arguments, fit_in_child

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")

METRICS = {
    "metrics/explained_variance",
    "metrics/fvu",
    "metrics/l0",
    "sparsity/dead_features",
    "details/n_training_samples",
    "growth/n_atoms",
}


def records(run: Path) -> list[Any]:
    """The records of the offline run of W&B in a run directory: a LevelDB log of protocol buffers."""
    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    content, found, part = file.read_bytes()[7:], [], b""
    position = 0
    block = 2**15
    while position + 7 <= len(content):
        left = block - (position + 7) % block  # the file begins with 7 bytes that belong to the first block
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        part += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = vars(wandb_internal_pb2)["Record"]()  # made when the module is imported
            record.ParseFromString(part)
            found.append(record)
            part = b""
    return found


@pytest.fixture(scope="module")
def run(tiny_model_dir, prose_file, tmp_path_factory) -> Path:
    """A fit that logged to W&B, offline."""
    runs = tmp_path_factory.mktemp("wandb")
    arguments = fit_arguments(tiny_model_dir, prose_file, runs, run__wandb_project="project-of-the-test")
    assert fit_in_child(arguments, runs / "output") == 0
    return runs / "itda-001"


def logged(run: Path) -> dict[str, list[Any]]:
    values: dict[str, list[Any]] = {}
    for record in records(run):
        for item in record.history.item:
            values.setdefault(item.key or "/".join(item.nested_key), []).append(json.loads(item.value_json))
    return values


def test_metrics_have_the_names_that_saelens_uses(run):
    values = logged(run)
    assert set(values) >= METRICS
    result = json.loads((run / "metrics.json").read_text())["hook_points"][HOOK]
    assert values["metrics/fvu"][-1] == pytest.approx(result["fvu"], rel=1e-6)
    assert values["metrics/explained_variance"][-1] == pytest.approx(1 - result["fvu"], rel=1e-5)
    assert values["metrics/l0"][-1] == pytest.approx(result["l0"], rel=1e-6)
    assert values["sparsity/dead_features"][-1] == result["dead_atoms"]
    assert len(values["metrics/fvu"]) >= 4


def test_csv_has_the_same_names(run):
    columns = set(next(csv.reader((run / "metrics.csv").open())))
    assert columns >= METRICS
    ours = {name for name in logged(run) if not name.startswith(("_", "atoms/", "trainer/"))}
    assert ours <= columns


def test_atoms_are_a_table_with_their_context(run):
    (file,) = run.glob("wandb/offline-run-*/files/media/table/atoms/*.table.json")
    table = json.loads(file.read_text())
    dictionary = Dictionary.load(run / "dictionaries" / HOOK)
    assert table["columns"] == ["atom", "before", "token", "after", "document", "position"]
    assert len(table["data"]) == dictionary.n_atoms
    assert dictionary.prompts is not None
    for row, prompt, source in zip(table["data"], dictionary.prompts, dictionary.sources, strict=True):
        assert row[1:4] == [prompt.before[-200:], prompt.token, prompt.after[:60]]
        assert row[4:] == [source.document, source.position]
    assert logged(run)[f"atoms/{HOOK}/nrows"] == [dictionary.n_atoms]


def test_the_dictionary_is_an_artifact(run):
    artifacts = [record.artifact for record in records(run) if record.WhichOneof("record_type") == "artifact"]
    (artifact,) = [artifact for artifact in artifacts if artifact.type == "dictionary"]
    assert artifact.name == f"itda-{HOOK}"
    assert json.loads(artifact.metadata) == {"hook_name": HOOK}
    assert {entry.path for entry in artifact.manifest.contents} == {"dictionary.json", "dictionary.safetensors"}


def record_options(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Put a logger in the place of W&B's that only keeps what it was made with; returns that."""
    made: dict[str, Any] = {}

    class Recorded(WandbLogger):
        experiment = None

        def __init__(self, **options: Any) -> None:
            made.update(options)

    monkeypatch.setattr(wandb_logging, "WandbLogger", Recorded)
    return made


def test_no_key_and_no_network_mean_offline(tmp_path, monkeypatch, caplog):
    """As W&B is on a machine that never saw it: no key in the environment, none in the home, online by default."""
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / ".netrc"))
    made = record_options(monkeypatch)
    with caplog.at_level("INFO", logger="itda_lightning"):
        assert make_wandb_logger("project", tmp_path / "run-007") is not None
    assert made["offline"] is True
    assert made["name"] == "run-007"
    assert "W&B is offline; to upload the run later: wandb sync" in caplog.text


def test_disabled_means_not_at_all(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "itda_lightning")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert make_wandb_logger("project", tmp_path) is None
    assert "W&B is disabled in the environment: metrics go to CSV only" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_login_that_fails_means_offline(tmp_path, monkeypatch, caplog):
    def failing(**_: Any) -> bool:
        raise ConnectionError("no network")

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "login", failing)
    made = record_options(monkeypatch)
    assert make_wandb_logger("project", tmp_path) is not None
    assert made["offline"] is True
    assert "W&B login failed (no network): logging offline" in caplog.text


def test_without_wandb_metrics_go_to_csv_only(tiny_model_dir, prose_file, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else find(name, *rest))
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it now raises ImportError
    run = fit.main(fit_arguments(tiny_model_dir, prose_file, tmp_path, run__wandb_project="p"))
    assert (run / "metrics.json").is_file()
    assert set(next(csv.reader((run / "metrics.csv").open()))) >= METRICS
    assert "WARNING wandb is not installed: metrics go to CSV only" in (run / "fit.log").read_text()
    assert not (run / "wandb").exists()


def test_a_wandb_that_fails_to_start_does_not_stop_the_fit(tiny_model_dir, prose_file, tmp_path, monkeypatch):
    def broken(**_: Any) -> WandbLogger:
        raise RuntimeError("the service did not start")

    monkeypatch.setattr(wandb_logging, "WandbLogger", broken)
    run = fit.main(fit_arguments(tiny_model_dir, prose_file, tmp_path, run__wandb_project="p"))
    assert (run / "metrics.json").is_file()
    assert "WARNING W&B cannot be used (the service did not start): metrics go to CSV" in (run / "fit.log").read_text()


def test_a_dictionary_that_cannot_be_logged_does_not_stop_the_fit(tmp_path, caplog):
    class Broken(WandbLogger):
        def __init__(self) -> None:
            pass

        @property
        def experiment(self) -> Any:
            raise ConnectionError("gone")

    dictionary = Dictionary(torch.eye(2), k=1, metadata={"hook_name": HOOK})
    wandb_logging.log_dictionary(Broken(), dictionary, tmp_path)
    assert f"could not log the dictionary of {HOOK} to W&B: gone" in caplog.text
