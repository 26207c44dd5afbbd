"""The fit command: what it writes, when it stops, and how it ends when something is wrong."""

import csv
import errno
import inspect
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import SafetensorError

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.dictionary import dictionary_files
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.fit import main
from itda_lightning.fitting import checkpoint_io as checkpoints
from itda_lightning.fitting.checkpoint_io import read_checkpoint
from itda_lightning.fitting.module import ITDA
from itda_lightning.fitting.run_directory import RunSettings
from tests.fits import HOOK, fit_arguments

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")


@pytest.fixture
def arguments(tiny_model_dir, prose_file, tmp_path):
    """The command line of a small fit, with changes, whose runs lie in tmp_path."""
    return lambda **others: fit_arguments(tiny_model_dir, prose_file, tmp_path, **others)


def assert_same(one: Path, other: Path) -> None:
    a, b = (Dictionary.load(run / "dictionaries" / HOOK) for run in (one, other))
    assert torch.equal(a.atoms, b.atoms)
    assert torch.equal(a.source_table, b.source_table)
    assert torch.equal(a.bias, b.bias)
    assert a.metadata["threshold"] == b.metadata["threshold"]


def test_what_a_run_directory_holds(arguments, tmp_path, capsys):
    run = main(arguments())
    assert run == tmp_path / "itda-001"
    names = {"config.yaml", "dictionaries", "metrics.csv", "metrics.json", "fit.log", "versions.json", "checkpoints"}
    assert names <= {path.name for path in run.iterdir()}
    assert not [path for path in run.rglob("*") if path.name.endswith(".part")]

    dictionary = Dictionary.load(run / "dictionaries" / HOOK)
    assert 20 < dictionary.n_atoms < 150
    assert dictionary.prompts is not None
    assert dictionary.metadata["model_name"] == arguments()[1]
    assert dictionary.metadata["fit"]["k"] == 4

    written = json.loads((run / "metrics.json").read_text())
    result = written["hook_points"][HOOK]
    assert result["n_atoms"] == dictionary.n_atoms
    assert result["threshold"] == 0.75
    assert result["activations_seen"] == dictionary.metadata["activations_seen"] > 1900
    assert 0 < result["fvu"] < 1
    assert {"harvest", "growth", "all", "harvest_tokens"} <= set(written["seconds"])
    assert written["seconds"]["harvest_tokens"] >= 2048 + 512

    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert {"metrics/explained_variance", "metrics/l0", "sparsity/dead_features"} <= set(rows[0])
    assert {"growth/n_atoms", "growth/unexplained", "details/n_training_samples"} <= set(rows[0])
    last = [float(row["metrics/fvu"]) for row in rows if row["metrics/fvu"]][-1]
    assert last == pytest.approx(result["fvu"], rel=1e-6)
    explained = [float(row["metrics/explained_variance"]) for row in rows if row["metrics/explained_variance"]][-1]
    assert explained == pytest.approx(1 - result["fvu"], rel=1e-5)

    checkpoint = read_checkpoint(run / "checkpoints" / "last.ckpt")
    n = int(checkpoint["state_dict"]["dictionaries.0._count"])  # the last one is of a step before the end
    assert dictionary.n_atoms - 2 <= n <= dictionary.n_atoms
    assert torch.equal(checkpoint["state_dict"]["dictionaries.0._atoms"][:n], dictionary.atoms[:n])
    log = (run / "fit.log").read_text()
    assert re.search(
        r"INFO threshold at blocks.1.hook_resid_post: 0.7500 of the energy left unexplained \(given\)", log
    )
    assert str(run) in log
    assert json.loads((run / "versions.json").read_text())["torch"] == torch.__version__
    assert HOOK in capsys.readouterr().out


def test_the_plain_command_refines_prunes_and_relabels(arguments, tmp_path):
    """Its defaults are the setting that measured best; only sizes are given here."""
    own = ("--model.pursuit", "--model.nonnegative", "--model.l0", "--refine")
    given = arguments(model__k=6, data__cache_dir=tmp_path / "cache")
    pairs = zip(given[::2], given[1::2], strict=True)
    given = [part for name, value in pairs if name not in own for part in (name, value)]
    dictionary = Dictionary.load(main(given) / "dictionaries" / HOOK)
    assert (dictionary.pursuit, dictionary.nonnegative, dictionary.k) == ("gomp", True, 6)
    assert dictionary.metadata["fit"]["l0"] == 4  # two thirds of k
    assert dictionary.least_gain > 0
    refinement = dictionary.metadata["refinement"]
    settings = {name: refinement[name] for name in ("anchor", "passes", "batch_size", "unmix", "relabel")}
    assert settings == {"anchor": None, "passes": 3, "batch_size": 1024, "unmix": None, "relabel": True}
    assert dictionary.relabelled is not None
    assert dictionary.unrefined().n_atoms == dictionary.n_atoms


def test_the_written_configuration_fits_the_same_dictionary(arguments, tmp_path):
    first = main(arguments(model__growth="frozen_batch", data__seed=7))
    again = main(["--config", str(first / "config.yaml"), "--run.directory", str(tmp_path / "again")])
    assert_same(first, again)
    config, other = (yaml.safe_load((run / "config.yaml").read_text()) for run in (first, again))
    assert config["model"]["growth"] == "frozen_batch"
    assert {key for key in config if config[key] != other[key]} == {"run"}


def test_a_run_never_overwrites_another_nor_writes_into_its_log(arguments, tmp_path):
    first = main(arguments())
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    second = main(arguments())
    assert second == tmp_path / "itda-002"
    assert_same(first, second)
    assert "itda-002" not in (first / "fit.log").read_text()
    assert "itda-001" not in (second / "fit.log").read_text()
    with pytest.raises(
        InputError, match=r"the run directory .*itda-001 exists already: a run never overwrites another"
    ):
        main(arguments(run__directory=first))
    assert before == {path: path.stat().st_mtime_ns for path in first.rglob("*")}


def test_it_stops_when_every_dictionary_is_full(arguments):
    run = main(arguments(model__threshold=0.2, model__max_atoms=40))
    result = json.loads((run / "metrics.json").read_text())["hook_points"][HOOK]
    assert result["n_atoms"] == 40
    assert result["activations_seen"] == 128
    log = (run / "fit.log").read_text()
    assert "every dictionary is full after 128 activations" in log
    assert re.search(
        r"WARNING threshold 0.2000 at blocks.1.* fills 40 atoms after about \d+ of 19\d\d activations", log
    )
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"] == 1


def test_it_stops_when_nothing_grows(arguments):
    run = main(arguments(model__threshold=0.99, run__patience=3))
    result = json.loads((run / "metrics.json").read_text())["hook_points"][HOOK]
    assert result["activations_seen"] < 1900
    log = (run / "fit.log").read_text()
    assert f"no new atom in 3 steps: the fit ends at [{result['n_atoms']}] atoms" in log
    assert re.search(r"WARNING threshold 0.9900 at blocks.1.* appends only about \d+ of 150 atoms", log)


def test_a_calibrated_threshold_fills_the_dictionary_in_the_last_half_of_the_budget(arguments):
    run = main(arguments(model__threshold=None, model__max_atoms=100))
    result = json.loads((run / "metrics.json").read_text())["hook_points"][HOOK]
    assert result["n_atoms"] > 70
    assert result["activations_seen"] > 900
    assert re.search(r"\(calibrated\); a sample of \d+ activations forecasts", (run / "fit.log").read_text())


def test_help_explains_every_setting(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for group, settings in (("model", ITDA), ("data", ActivationsDataModule), ("run", RunSettings)):
        names = [name for name in inspect.signature(settings).parameters if name != "self"]
        assert len(names) >= 7
        for name in names:
            found = re.search(rf"--{group}\.{name}\+? [^\n]*?\n?\s+(\S.*?)\((?:type|required|default)", text, re.DOTALL)
            assert found, f"{group}.{name} is not in --help"
            assert len(found[1].split()) >= 3, f"{group}.{name} has no help text: {found[0]!r}"
    assert "Resume from this checkpoint" in text


def test_print_config_prints_every_setting(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*arguments(), "--print_config"])
    assert ended.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    for group, settings in (("model", ITDA), ("data", ActivationsDataModule), ("run", RunSettings)):
        assert set(printed[group]) == set(inspect.signature(settings).parameters)
    assert printed["model"]["max_atoms"] == 150
    assert printed["seed_everything"] == 0


def test_a_full_disk_during_a_checkpoint(arguments, tmp_path, monkeypatch):
    write, calls = checkpoints.save_file, []

    def full_later(tensors, path, header):
        calls.append(path)
        if len(calls) > 2:  # a checkpoint is step3 and last
            Path(path).write_bytes(b"half")
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        write(tensors, path, header)

    monkeypatch.setattr(checkpoints, "save_file", full_later)
    with pytest.raises(
        InputError, match=r"no space left while writing .*step6.ckpt: free some space or choose another"
    ):
        main(arguments())
    left = {path.name for path in (tmp_path / "itda-001" / "checkpoints").iterdir()}
    assert left == {"step3.ckpt", "last.ckpt"}
    assert read_checkpoint(tmp_path / "itda-001" / "checkpoints" / "last.ckpt")["global_step"] == 3
    assert "no space left" in (tmp_path / "itda-001" / "fit.log").read_text()
    monkeypatch.undo()
    whole = main(arguments(run__name="whole"))
    assert_same(main([*arguments(), "--ckpt_path", "last"]), whole)


def test_a_full_disk_in_the_metrics_is_one_line_and_the_checkpoints_stay(arguments, tmp_path, monkeypatch):
    make = RunSettings.make_directory

    def make_with_full_metrics(self, resumed):
        directory = make(self, resumed)
        (directory / "metrics.csv").symlink_to("/dev/full")
        return directory

    monkeypatch.setattr(RunSettings, "make_directory", make_with_full_metrics)
    with pytest.raises(
        InputError,
        match=r"no space left while writing the run directory .*itda-001: free .*--ckpt_path last",
    ):
        main(arguments())
    assert read_checkpoint(tmp_path / "itda-001" / "checkpoints" / "last.ckpt")["global_step"] >= 3


def test_a_full_disk_while_the_dictionary_is_saved(arguments, tmp_path, monkeypatch):
    def full(tensors, path):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(dictionary_files, "save_file", full)
    with pytest.raises(InputError, match=r"no space left while writing .*dictionaries/blocks.1.hook_resid_post"):
        main(arguments())
    run = tmp_path / "itda-001"
    assert not list((run / "dictionaries").iterdir())
    assert not (run / "metrics.json").exists()
    monkeypatch.undo()
    # The last checkpoint is that of the last whole three steps; the fit goes on from there to its end.
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"] >= 13
    assert (main([*arguments(), "--ckpt_path", "last"]) / "metrics.json").is_file()
