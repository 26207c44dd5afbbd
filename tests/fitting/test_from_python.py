"""Fits from Python, of arrays and of texts."""

import json
import logging
import re
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.nn.functional import normalize

import itda_lightning as il
from itda_lightning.activations.arrays import ArrayActivations
from itda_lightning.activations.bundled import cache_directory
from itda_lightning.evaluation.data_of import data_for
from itda_lightning.fitting.from_python import _refinement, given_texts
from tests.fits import HOOK

OPTIONS = {"max_atoms": 48, "k": 4, "batch_size": 256, "calibration_tokens": 512}
REFINE = {"passes": 1, "batch_size": 256}


@pytest.fixture(scope="module")
def x():
    random = torch.Generator().manual_seed(0)
    directions = normalize(torch.randn(64, 16, generator=random), dim=1)
    fired = torch.rand(1500, 64, generator=random) < 0.05
    strengths = torch.rand(1500, 64, generator=random) + 0.5
    return strengths.where(fired, 0) @ directions + 0.01 * torch.randn(1500, 16, generator=random) + 0.3


@pytest.fixture(scope="module")
def fitted(x):
    return il.fit_activations(x, sources=[f"kind {i % 7}" for i in range(len(x))], refine=REFINE, **OPTIONS)


def test_every_atom_is_named_by_the_row_that_it_came_from(x, fitted):
    assert 20 < fitted.n_atoms <= 48
    numbers = fitted.sources.table[:, 0]
    grown = normalize(x[numbers].double() - fitted.bias, dim=1)
    torch.testing.assert_close((grown * fitted.grown_atoms).sum(1), torch.ones(fitted.n_atoms).double())
    assert [prompt.token for prompt in fitted.sources.prompts] == [f"kind {number % 7}" for number in numbers.tolist()]
    labels = fitted.relabelled
    near = normalize(x[labels.table[:, 0]].double() - fitted.bias, dim=1)
    torch.testing.assert_close((near * normalize(fitted.atoms.double(), dim=1)).sum(1), labels.cosines)
    assert {prompt.token for prompt in labels.prompts} <= {f"kind {i}" for i in range(7)}


def test_figures_are_of_rows_that_are_held_out(x, fitted):
    heldout = ArrayActivations(x).rows("heldout").document[:, 0]
    assert len(heldout) == 150
    assert not set(heldout.tolist()) & set(fitted.sources.table[:, 0].tolist())
    validation = fitted.metadata["refinement"]["validation"]
    rows = x[heldout].double()
    error = (rows - fitted(x[heldout])).square().sum() / (rows - rows.mean(0)).square().sum()
    assert validation["fvu"] == pytest.approx(float(error), abs=1e-3)
    assert validation["l0"] == pytest.approx(4 * 2 / 3, abs=0.1)
    json.dumps(fitted.metadata)


def test_a_memory_map_of_other_precision_gives_the_same_bits_and_numbers_as_names(x, fitted, tmp_path):
    np.save(tmp_path / "x.npy", x.double().numpy())
    again = il.fit_activations(np.load(tmp_path / "x.npy", mmap_mode="r"), refine=None, **OPTIONS)
    assert torch.equal(again.atoms, fitted.grown_atoms)
    assert torch.equal(again.source_table[:, :3], fitted.source_table[:, :3])
    assert again.sources.prompts[0].token == str(again.sources[0].document)


def test_a_dictionary_of_an_array_is_saved_and_exported_as_any_other(fitted, x, tmp_path):
    fitted.save(tmp_path / "d")
    loaded = il.load_dictionary(tmp_path / "d")
    assert torch.equal(loaded.encode(x[:9]).coefficients, fitted.encode(x[:9]).coefficients)
    assert loaded.sources.prompts == fitted.sources.prompts
    assert il.to_sae(fitted).cfg.metadata.model_name is None
    with pytest.raises(il.InputError, match=r"fitted on an array \(il.fit_activations\), so there is no text"):
        data_for(loaded, None, "activations")


def test_rows_that_are_not_finite_are_skipped_and_counted(x):
    broken = x.clone()
    broken[::100] = torch.nan
    fitted = il.fit_activations(broken, refine=None, **OPTIONS)
    held_out = set(ArrayActivations(broken).rows("heldout").document[:, 0].tolist())
    assert fitted.metadata["activations_skipped"] == len(set(range(0, 1500, 100)) - held_out)


def test_rows_that_change_during_the_fit_are_told(x):
    rows = x.clone()
    data = ArrayActivations(rows)
    reader = data.stored("train")
    reader.read(0, 64)
    rows[int(data.rows("train").document[5])] += 1
    with pytest.raises(il.InputError, match=r"row \d+ of the array, or one of the 64 read with it, changed during"):
        reader.read(0, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.ones(5)}, r"shape \(rows, d\), got \(5,\)"),
        ({"x": torch.ones(2, 3, 4)}, r"got \(2, 3, 4\): reshape\(-1, d\)"),
        ({"x": torch.ones(0, 4)}, r"got \(0, 4\)"),
        ({"x": torch.ones(9, 4, dtype=torch.int64)}, "floating dtype, got torch.int64: convert it to float32"),
        ({"sources": ["one"]}, r"one name per row of x \(1,500\), got 1"),
        ({"holdout_fraction": 0.0}, "holdout_fraction 0 of 1,500 rows leaves none"),
        ({"holdout_fraction": float("nan")}, "holdout_fraction nan of 1,500 rows leaves none"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"device": "cuda:9"}, "cuda:9 was asked for"),
        ({"atoms": 5}, "unexpected keyword argument 'atoms': settings are the arguments of il.ITDA"),
        ({"refine": {"steps": 5}}, r"refine must be None, True or some of \('anchor', "),
        ({"refine": {"anchor": 2.0}}, "refine.anchor must lie between 0 and 1, got 2"),
    ],
)
def test_what_does_not_fit_is_told_before_the_fit(x, change, message):
    with pytest.raises(il.InputError, match=message):
        il.fit_activations(**{"x": x} | OPTIONS | change)


def test_texts_of_a_model_give_the_bits_of_the_command(tiny_model_dir, prose, prose_file, tmp_path, monkeypatch):
    monkeypatch.setenv("ITDA_LIGHTNING_CACHE", str(tmp_path / "cache"))
    settings: dict[str, Any] = {
        "max_atoms": 40,
        "k": 4,
        "context_size": 32,
        "training_tokens": 2048,
        "validation_tokens": 512,
    }
    settings["cache_dir"] = str(tmp_path / "activations")
    fitted = il.fit(str(tiny_model_dir), HOOK, prose, refine=REFINE, calibration_tokens=512, **settings)
    options: dict[str, Any] = {"model.max_atoms": 40, "model.k": 4, "model.calibration_tokens": 512, "refine.passes": 1}
    options |= {"refine.batch_size": 256, "data.model": tiny_model_dir, "data.hook_names": f"[{HOOK}]"}
    options |= {f"data.{name}": settings[name] for name in settings if name not in ("max_atoms", "k")}
    options |= {"data.dataset": prose_file, "run.directory": tmp_path / "run"}
    il.fit.main([f"--{name}={value}" for name, value in options.items()])
    by_command = il.load_dictionary(tmp_path / "run")
    assert torch.equal(fitted.atoms, by_command.atoms)
    assert fitted.least_gain == by_command.least_gain
    assert fitted.sources.prompts == by_command.sources.prompts
    assert fitted.relabelled.prompts == by_command.relabelled.prompts


def test_all_tokens_of_short_texts_are_read(tiny_model_dir, prose, tmp_path, monkeypatch):
    monkeypatch.setenv("ITDA_LIGHTNING_CACHE", str(tmp_path))
    texts = Dataset.from_dict({"text": prose})
    fitted = il.fit(str(tiny_model_dir), HOOK, texts, refine=None, cache_dir=None, context_size=32, **OPTIONS)
    data = fitted.metadata["data"]
    assert 15_000 < data["training_tokens"] < 100_000
    assert 32 <= data["validation_tokens"] < 16_384
    assert data["dataset"].startswith(str(cache_directory()))


def test_what_is_no_text_is_told(tiny_model_dir):
    for texts, got in (([], "none"), ([3], r"\['int'\]")):
        with pytest.raises(il.InputError, match=f"texts must be one or more strings, .* got {got}"):
            given_texts(texts)
    with pytest.raises(il.InputError, match="unexpected keyword argument 'tokens'"):
        il.fit(str(tiny_model_dir), HOOK, ["one", "two"], tokens=3)


def test_who_calls_fit_on_a_module_is_told_of_the_functions(x):
    with pytest.raises(
        il.InputError, match=r"il.fit_activations\(x, ...\) for an array, il.fit\(model, hook_name, texts"
    ):
        il.ITDA().fit(x)


def test_bars_are_hidden_on_request_and_nothing_is_advertised(x, capfd):
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    il.fit_activations(x, refine=REFINE, progress=False, **OPTIONS)
    assert not re.search(r"it/s|steps|Relabel|Tip|available|litlogger", capfd.readouterr().err)
    il.fit_activations(x, refine=REFINE, **OPTIONS)
    told = capfd.readouterr().err
    assert "Refine activations" in told
    assert not re.search(r"Tip|GPU available|litlogger", told)
    assert logger.level == level


@pytest.mark.parametrize(("refine", "passes"), [(None, None), (False, None), (True, 3), ({"passes": 1}, 1)])
def test_refinement_is_of_the_commands_setting_of_given_fields_or_none(refine, passes):
    settings = _refinement(refine)
    assert (settings and settings.passes) == passes


def test_gradients_stay_off_for_a_caller_who_has_them_off():
    x = torch.randn(300, 8)
    with torch.no_grad():
        il.fit_activations(x, max_atoms=10, k=3, refine={"passes": 1, "batch_size": 128}, progress=False)
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
