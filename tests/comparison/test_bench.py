"""The bench: what it refuses, what decides a row's figures, and how a row is put together."""

import dataclasses
import math

import pytest
import torch

from itda_lightning import ActivationsDataModule
from itda_lightning.comparison import bench as measuring
from itda_lightning.comparison.bench import Bench
from itda_lightning.comparison.candidates import identity_of, make_candidate
from itda_lightning.comparison.comparison_settings import ComparisonSettings, EntrySettings, PCASettings
from itda_lightning.comparison.probe_settings import ProbeSettings
from itda_lightning.errors import InputError
from itda_lightning.evaluation.saelens_evals import evaluate_sae
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.results.comparison import MEASURES
from itda_lightning.saelens import save_export
from tests.runs import CONTEXT, HOOK, MAX_ATOMS, OTHER_HOOK


@pytest.fixture(scope="module")
def arguments(tiny_model_dir, prose_file):
    return {
        "model": str(tiny_model_dir),
        "hook_names": [HOOK],
        "dataset": str(prose_file),
        "device": "cpu",
        "context_size": CONTEXT,
        "training_tokens": 120 * CONTEXT,
        "validation_tokens": 32 * CONTEXT,
    }


@pytest.fixture(scope="module")
def data(arguments):
    return ActivationsDataModule(**arguments)


def settings_of(**changes) -> ComparisonSettings:
    return ComparisonSettings(**({"entries": [EntrySettings("a", pca=PCASettings())], "directory": "x"} | changes))


@pytest.fixture(scope="module")
def bench(data):
    return Bench(data, settings_of(loss_tokens=8 * CONTEXT))


def candidate_of(path, data):
    return make_candidate(EntrySettings("an entry", load=str(path)), data, HOOK, path, "no identity")


def test_a_row_holds_every_measure_of_the_tokens_said(bench, data, tiny_run):
    row = bench.measure("its name", candidate_of(tiny_run, data), "an identity")
    assert tuple(row.measures) == MEASURES
    assert (row.name, row.kind, row.architecture, row.identity) == ("its name", "itda", "itda", "an identity")
    assert (row.tokens_hash, row.reused, row.failure) == (bench.tokens_hash, False, None)
    dictionary = load_dictionary(tiny_run)
    assert row.width == len(row.densities) == dictionary.n_atoms <= MAX_ATOMS
    theirs, per_atom = evaluate_sae(
        candidate_of(tiny_run, data).entry.sae, data.language_model, data.rows("heldout"), loss_rows=8, progress=False
    )
    for name in set(MEASURES) & set(theirs):
        assert row.value(name) == pytest.approx(theirs[name], rel=2e-4), name
    assert len(set(MEASURES) & set(theirs)) == 10
    assert row.densities == pytest.approx(per_atom["feature_density"], abs=1e-6)
    assert math.isnan(row.value("probing/k=1"))
    assert row.measured_seconds > 0
    assert row.cost.encoded_per_second > 0


def test_an_export_with_rows_twice_is_as_wide_as_its_dictionary(bench, data, tiny_run, tmp_path):
    dictionary = load_dictionary(tiny_run)
    save_export(dictionary, tmp_path / "export", "matching_pursuit")
    rows = [bench.measure("a", candidate_of(path, data), "i") for path in (tiny_run, tmp_path / "export")]
    assert rows[1].architecture == "matching_pursuit"
    assert rows[1].width == rows[0].width == dictionary.n_atoms
    assert rows[1].densities == rows[0].densities
    for name in MEASURES:
        assert rows[1].value(name) == pytest.approx(rows[0].value(name), rel=1e-4), name


def test_the_harvest_is_charged_by_the_activations_read(bench, data, tiny_run, monkeypatch):
    monkeypatch.setitem(bench.__dict__, "_harvest_seconds_each", 0.5)
    candidate = candidate_of(tiny_run, data)
    row = bench.measure("a", candidate, "i")
    assert row.cost.harvest_seconds == 0.5 * candidate.cost.activations_read
    unknown = candidate._replace(cost=dataclasses.replace(candidate.cost, activations_read=None))
    assert bench.measure("a", unknown, "i").cost.harvest_seconds is None


def test_the_speed_of_a_harvest_is_that_after_the_first_pass(data, monkeypatch):
    passes, harvest = [], measuring.harvest
    times = iter([100.0, 103.0])
    monkeypatch.setattr(measuring, "harvest", lambda *args: (passes.append(args[3:]), harvest(*args))[1])
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: next(times))
    bench = Bench(data, settings_of())
    monkeypatch.setattr(measuring, "TIMED_ROWS", 20)
    each = bench._harvest_seconds_each
    assert passes == [(0, 16), (0, 20)]
    assert each == pytest.approx(3.0 / int(data.rows("heldout").kept[:20].sum()))


def identity(arguments, changes=(), **settings) -> str:
    return Bench(ActivationsDataModule(**(arguments | dict(changes))), settings_of(**settings)).identity("an entry")


def test_all_that_decides_the_figures_is_in_the_identity(arguments, monkeypatch):
    plain = identity(arguments)
    different = [
        identity(arguments, loss_tokens=8 * CONTEXT),
        identity(arguments, loss_tokens=9 * CONTEXT),
        identity(arguments, probes=ProbeSettings()),
        identity(arguments, probes=ProbeSettings(seeds=4)),
        identity(arguments, {"validation_tokens": 30 * CONTEXT}),
        identity(arguments, {"prepend_bos": False}),
        identity(arguments, {"exclude_special_tokens": False}),
        identity(arguments, {"holdout_fraction": 0.3}),
        identity(arguments, {"model_dtype": "bfloat16"}),
        identity(arguments, {"loader": "huggingface"}),
        identity(arguments, {"hook_names": [OTHER_HOOK]}),
        identity(arguments, {"cache_dir": "c", "cache_dtype": "bfloat16"}),
        Bench(ActivationsDataModule(**arguments), settings_of()).identity("another entry"),
    ]
    monkeypatch.setattr(measuring, "FORMULAS", measuring.FORMULAS + 1)
    different.append(identity(arguments))
    here = measuring.versions_and_hardware()
    monkeypatch.setattr(measuring, "versions_and_hardware", lambda: here | {"gpus": ["a GPU"]})
    different.append(identity(arguments))
    assert len({plain, *different}) == 1 + len(different)


def test_nothing_else_is(arguments):
    plain = identity(arguments)
    more = 10**6  # than there are: all rows, as before
    assert identity(arguments, {"model_batch_size": 3, "batch_size": 7, "cache_dir": "c"}) == plain
    assert identity(arguments, {"training_tokens": 60 * CONTEXT}) == plain
    names = {"title": "t", "directory": "y", "controls": False, "latents": False, "model_batch_size": 2}
    assert identity(arguments, entries=[EntrySettings("b", load="z")], loss_tokens=more, **names) == plain


def test_entries_that_are_loaded_and_made_have_identities_of_their_own(data, tiny_run):
    entries = [EntrySettings("a", load=str(tiny_run)), EntrySettings("a", pca=PCASettings(4))]
    assert len({identity_of(entry, data) for entry in entries}) == 2


def test_losses_are_of_the_first_whole_rows(data):
    bench = Bench(data, settings_of(loss_tokens=9 * CONTEXT - 1))
    assert torch.equal(bench.loss_rows.tokens, data.rows("heldout").tokens[:8])
    assert len(Bench(data, settings_of(loss_tokens=10**6)).loss_rows) == 32


@pytest.mark.parametrize(
    ("changes", "settings", "text"),
    [
        ({"hook_names": [HOOK, OTHER_HOOK]}, {}, r"of one hook point: give one of data\.hook_names, got \['blocks\.1"),
        ({}, {"loss_tokens": CONTEXT - 1}, "loss_tokens must be at least 16, got 15: that is one row"),
        (
            {"validation_tokens": CONTEXT},
            {},
            r"data\.validation_tokens gives tokens of 1 document only, so no standard error can be computed: raise it",
        ),
        ({}, {"loss_tokens": CONTEXT}, "loss_tokens gives tokens of 1 document only, so no standard error can be"),
    ],
    ids=["hook points", "a row", "one document", "losses of one document"],
)
def test_what_cannot_be_measured_is_refused_before_a_model_is_loaded(arguments, changes, settings, text, monkeypatch):
    monkeypatch.setattr("itda_lightning.activations.model_and_rows.LanguageModel", pytest.fail)
    with pytest.raises(InputError, match=text):
        Bench(ActivationsDataModule(**(arguments | changes)), settings_of(**settings))
