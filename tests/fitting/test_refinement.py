"""Fits that refine their atoms: labels stay true, the grown dictionary is kept, a killed fit goes on in the middle."""

import csv
import json
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from itda_lightning import ITDA, ActivationsDataModule
from itda_lightning.decompose import decompose_text
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.dictionary_files import INDEX_FILE
from itda_lightning.errors import InputError
from itda_lightning.fit import main
from itda_lightning.fitting import refinement
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.fitting.refinement import RefinementSettings, refine
from itda_lightning.page import page
from itda_lightning.report.words.wording import MINUS
from tests.fits import HOOK, copies, data_settings, fit_arguments, fit_in_child, fitted
from tests.fitting.test_refined_dictionary import assert_same
from tests.pages import data_in
from tests.tiny_model import save_weights

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")

ANCHOR = 0.9
SETTINGS = {"refine.anchor": ANCHOR, "refine.passes": 2, "refine.batch_size": 128, "refine.relabel": "true"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def arguments(tiny_model_dir: Path, prose_file: Path, cache: Path, tmp_path_factory) -> list[str]:
    """The command line of a refined fit of 28 steps after growth, without a directory."""
    runs = tmp_path_factory.mktemp("runs")
    options = {name.replace(".", "__"): value for name, value in SETTINGS.items()}
    return fit_arguments(tiny_model_dir, prose_file, runs, data__cache_dir=cache, **options)


@pytest.fixture(scope="module")
def refined_run(arguments: list[str], tmp_path_factory) -> Path:
    """A finished run of that."""
    return main([*arguments, "--run.directory", str(tmp_path_factory.mktemp("whole") / "run")])


@pytest.fixture(scope="module")
def plain_run(tiny_model_dir: Path, prose_file: Path, cache: Path, tmp_path_factory) -> Path:
    """The same fit without refinement."""
    runs = tmp_path_factory.mktemp("plain")
    return main(fit_arguments(tiny_model_dir, prose_file, runs, data__cache_dir=cache))


def test_a_refined_dictionary_is_better_and_its_labels_are_true(refined_run):
    dictionary = load_dictionary(refined_run)
    assert dictionary.cosines is not None
    assert ANCHOR <= float(dictionary.cosines.min()) < float(dictionary.cosines.mean()) < 1
    metrics = json.loads((refined_run / "metrics.json").read_text())
    result = metrics["hook_points"][HOOK]
    assert result["fvu"] < 0.99 * result["fvu_unrefined"]
    assert result["mean_cosine"] == float(dictionary.cosines.mean())
    assert result["mean_label_cosine"] == float(dictionary.label_cosines.mean())
    shares = dictionary.metadata["refinement"]["unexplained"]
    assert len(shares) == 2
    assert shares[1] < shares[0]
    assert metrics["seconds"]["refinement"] > 0
    log = (refined_run / "fit.log").read_text()
    assert f"refined {dictionary.n_atoms} atoms at {HOOK} in " in log
    assert "; refinement: " in log
    assert dictionary.metadata["refinement"]["anchor"] == ANCHOR
    columns = list(csv.DictReader((refined_run / "metrics.csv").open()))
    fvu = [float(row["metrics/fvu"]) for row in columns if row.get("metrics/fvu")]
    assert fvu[-2:] == pytest.approx([result["fvu_unrefined"], result["fvu"]], rel=1e-5)


def test_the_grown_dictionary_is_restored_bit_for_bit(refined_run, plain_run):
    plain = load_dictionary(plain_run)
    assert_same(load_dictionary(refined_run).unrefined(), plain)
    assert_same(plain.unrefined(), plain)
    assert "refinement" not in json.loads((plain_run / "dictionaries" / HOOK / INDEX_FILE).read_text())["metadata"]
    assert json.loads((plain_run / "metrics.json").read_text())["seconds"]["refinement"] == 0


def test_a_fit_killed_while_it_refines_ends_bit_for_bit_as_one_that_was_not(arguments, refined_run, tmp_path):
    """Between checkpoints in the first pass; in the second, twice."""
    command = [*arguments, "--run.runs_directory", str(tmp_path)]
    for number, step in enumerate((13, 20, 23), 1):
        killed = fit_in_child(command, tmp_path / "output", step, signal.SIGKILL, of_refinement=True)
        assert killed == -signal.SIGKILL
        assert (tmp_path / f"itda-00{number}" / "checkpoints" / "refinement.ckpt").is_file()
        command += [] if "--ckpt_path" in command else ["--ckpt_path", "last"]
    last = main(command)
    assert_same(load_dictionary(last), load_dictionary(refined_run))
    one, other = (json.loads((run / "metrics.json").read_text())["hook_points"] for run in (last, refined_run))
    assert one == other


def test_a_checkpoint_holds_the_atoms_so_far_with_their_cosines(refined_run, plain_run):
    path = refined_run / "checkpoints" / "refinement.ckpt"
    half = load_dictionary(path)
    assert half.cosines is not None
    assert ANCHOR <= float(half.cosines.min()) < 1
    plain, finished = load_dictionary(plain_run), load_dictionary(refined_run)
    assert torch.equal(half.unrefined().atoms, plain.atoms)
    assert not torch.equal(half.atoms, finished.atoms)
    module = ITDA.load_from_checkpoint(path)
    assert torch.equal(module.finished_dictionary().atoms, half.atoms)
    assert torch.equal(module.finished_dictionary().grown_atoms, plain.atoms)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (
            ["--refine.anchor", "0.85"],
            r"began with other settings \(refine.anchor: 0.9 there, 0.85 here\): resume with",
        ),
        (
            ["--refine.passes", "3", "--refine.seed", "1"],
            r"refine.passes: 2 there, 3 here; refine.seed: 0 there, 1 here",
        ),
        (["--refine", "null"], r"the checkpoint is of a fit that refines its atoms: resume with its own config"),
    ],
)
def test_a_refinement_goes_on_with_its_own_settings_only(arguments, refined_run, tmp_path, others, message):
    checkpoint = str(refined_run / "checkpoints" / "refinement.ckpt")
    with pytest.raises(InputError, match=message):
        main([*arguments, *others, "--run.directory", str(tmp_path / "run"), "--ckpt_path", checkpoint])


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (
            {"refine__anchor": -0.1},
            r"refine.anchor must lie between 0 and 1, got -0.1: it is a cosine with the source; null for no bound",
        ),
        ({"refine__anchor": 1.1}, r"refine.anchor must lie between 0 and 1, got 1.1"),
        ({"refine__anchor": ".nan"}, r"refine.anchor must lie between 0 and 1, got nan"),
        ({"refine__unmix": 1}, r"refine.unmix must be a cosine above 0 and below 1, got 1.0: null for none"),
        ({"refine__unmix": ".nan"}, r"refine.unmix must be a cosine above 0 and below 1, got nan"),
        ({"refine__passes": 0}, r"refine.passes must be at least 1, got 0"),
        ({"refine__batch_size": 0}, r"refine.batch_size must be at least 1, got 0"),
        ({"refine__buffer_bytes": 0}, r"refine.buffer_bytes must be at least 1, got 0"),
        ({"refine__rate": 0}, r"refine.rate must be above 0 and at most 1 radian, got 0"),
        ({"refine": "{}", "data__cache_dir": "null"}, r"must be on disk: set data.cache_dir, or refine to null"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_loaded(tmp_path, prose_file, cache, others, message):
    arguments = fit_arguments(tmp_path / "no-model", prose_file, tmp_path, **({"data__cache_dir": cache} | others))
    with pytest.raises(InputError, match=message):
        main(arguments)


@pytest.fixture(scope="module")
def data(tiny_model_dir, prose_file, cache) -> ActivationsDataModule:
    return ActivationsDataModule(**data_settings(tiny_model_dir, prose_file, cache_dir=str(cache)))


@pytest.fixture(scope="module")
def grown(data, tmp_path_factory) -> Callable[[], ITDA]:
    """A fit of those data; every call returns another module of it."""
    return copies(fitted(data), tmp_path_factory.mktemp("grown") / "grown.ckpt")


@pytest.mark.parametrize("pursuit", ["mp", "omp"])
def test_a_module_is_refined_in_place_and_once(data, grown, pursuit):
    module = fitted(data, pursuit=pursuit) if pursuit == "mp" else grown()
    atoms = module.dictionary().atoms.clone()
    settings = RefinementSettings(anchor=0.8, passes=1, batch_size=64)
    assert refine(module, data, settings) > 0
    dictionary = module.finished_dictionary()
    assert dictionary.cosines is not None
    assert 0.8 <= float(dictionary.cosines.min()) < 0.95
    assert torch.equal(dictionary.grown_atoms, atoms)
    refine(module, data, settings)
    assert torch.equal(module.dictionary().atoms, dictionary.atoms)


def test_another_seed_is_another_order_and_the_same_one_the_same_bits(data, grown):
    atoms = []
    for seed in (0, 0, 1):
        module = grown()
        refine(module, data, RefinementSettings(passes=1, batch_size=64, seed=seed))
        atoms.append(module.dictionary().atoms.clone())
    assert torch.equal(atoms[0], atoms[1])
    assert not torch.equal(atoms[0], atoms[2])


def test_a_batch_larger_than_the_data_is_all_of_them(data, grown):
    atoms = []
    for size in (2**40, data.rows("train").n_kept):
        module = grown()
        refine(module, data, RefinementSettings(passes=2, batch_size=size, relabel=False))
        atoms.append(module.dictionary().atoms.clone())
    assert torch.equal(*atoms)


def test_an_anchor_of_1_changes_no_bit(data, grown):
    module = grown()
    atoms = module.dictionary().atoms.clone()
    refine(module, data, RefinementSettings(anchor=1.0, passes=1))
    assert torch.equal(module.dictionary().atoms, atoms)
    assert module.refinements[HOOK]["mean_cosine"] == pytest.approx(1)


def test_a_dictionary_without_atoms_is_left_alone(data):
    module = ITDA(max_atoms=5)
    module.hook_names, module.dictionaries = [HOOK], torch.nn.ModuleList([Dictionary(torch.zeros(0, 32), k=1)])
    refine(module, data, RefinementSettings())
    assert not module.refinements


def test_several_hook_points_and_a_kill_between_them(tiny_model_dir, prose_file, cache, tmp_path, monkeypatch):
    hooks = ["blocks.0.hook_resid_post", HOOK]
    data = ActivationsDataModule(**data_settings(tiny_model_dir, prose_file, cache_dir=str(cache), hook_names=hooks))
    settings = RefinementSettings(passes=1, batch_size=128)
    grown = copies(fitted(data), tmp_path / "grown.ckpt")
    whole, killed = grown(), grown()
    refine(whole, data, settings)
    step, calls = refinement.refinement_step, []

    def failing(*others: Any) -> Any:
        calls.append(others)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return step(*others)

    monkeypatch.setattr(refinement, "refinement_step", failing)
    with pytest.raises(KeyboardInterrupt):
        refine(killed, data, settings, lambda: None, 3)
    monkeypatch.undo()
    refine(killed, data, settings)
    for hook in hooks:
        assert_same(killed.finished_dictionary(hook), whole.finished_dictionary(hook))


def test_another_model_is_refused_as_ever(arguments, refined_run, tiny_model_dir, prose_file, tmp_path):
    shutil.copytree(tiny_model_dir, tmp_path / "other")
    save_weights(tmp_path / "other", seed=1)
    checkpoint = str(refined_run / "checkpoints" / "refinement.ckpt")
    with pytest.raises(InputError, match=r"another fit \(data.model"):
        main(
            [
                *arguments,
                "--data.model",
                str(tmp_path / "other"),
                "--run.directory",
                str(tmp_path / "run"),
                "--ckpt_path",
                checkpoint,
            ]
        )


def test_the_cosine_stands_beside_every_label(refined_run, tmp_path, capsys):
    dictionary = load_dictionary(refined_run)
    assert dictionary.relabelled is not None
    cosines = dictionary.label_cosines.tolist()
    page(str(refined_run), output=str(tmp_path / "page.html"), device="cpu")
    printed = capsys.readouterr().out
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert [atom["cosine"] for atom in data_in(text)["atoms"]] == pytest.approx(cosines, rel=1e-7)
    shown = re.findall(r'href="#atom-(\d+)".*?<data class="cosine" value="([\d.]+)">([\d.]+)<', text, re.DOTALL)
    assert len(shown) > 6
    for atom, value, rounded in shown:
        assert float(value) == cosines[int(atom)]
        assert 0 <= float(value) - float(rounded) + 1e-6 < 1e-3 + 1e-6
    means = float(dictionary.cosines.mean()), sum(cosines) / len(cosines)
    reached = f"{means[0]:.3f} on average, with the label {means[1]:.3f} on average"
    assert f"2 passes, cosine with the source at least 0.9, {reached}" in text
    decompose_text(str(refined_run), "The Senate of the United States", device="cpu")
    for table in (printed, capsys.readouterr().out):
        rows = re.findall(rf"^ *(\d+) +{MINUS}?[\d.,]+ +(0\.\d{{3}}|1\.000) ", table, re.MULTILINE)
        assert rows
        assert all(0 <= cosines[int(atom)] - float(cosine) < 1e-3 for atom, cosine in rows)
        assert "cosine: of the refined atom with the activation of the marked token" in table
