"""What a fit does with activations it cannot use and with arguments that make no sense."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from itda_lightning import ITDA, ActivationsDataModule, InputError
from itda_lightning.activations import datamodule
from itda_lightning.activations.harvesting import RowActivations
from itda_lightning.fitting import arguments
from itda_lightning.fitting.arguments import PER_ATOM
from itda_lightning.fitting.fit_run import fit_run
from itda_lightning.fitting.refinement import RefinementSettings
from itda_lightning.fitting.run_directory import RunSettings
from tests.fits import HOOK, data_settings, fitted, sharing_models, trainer


@pytest.fixture(scope="module")
def data_of(tiny_model_dir: Path, prose_file: Path):
    return sharing_models(
        lambda **others: ActivationsDataModule(**data_settings(tiny_model_dir, prose_file, **others), device="cpu")
    )


def spoil(monkeypatch: pytest.MonkeyPatch, spoiled: dict[tuple[int, int], float]) -> None:
    """Make harvests give activations at (row, position) that are all of one value."""
    real = datamodule.harvest_among_ranks

    def harvest(model: Any, rows: Any, *rest: Any) -> Iterator[RowActivations]:
        for part in real(model, rows, *rest):
            for (row, position), value in spoiled.items():
                if part.first_row <= row < part.first_row + len(part.activations[HOOK]):
                    part.activations[HOOK][row - part.first_row, position - 1] = value  # without position 0
            yield part

    monkeypatch.setattr(datamodule, "harvest_among_ranks", harvest)


SPOILED = {(0, 3): math.nan, (2, 5): math.inf, (2, 6): -math.inf, (9, 7): 0.0}


def test_unusable_activations_are_skipped_counted_and_named(data_of, monkeypatch, caplog):
    data = data_of()
    places = {(row, position) for row, position in SPOILED if bool(data.rows("train").kept[row, position])}
    assert len(places) >= 3
    spoil(monkeypatch, SPOILED)
    module = fitted(data)
    dictionary = module.finished_dictionary()
    assert int(module.skipped[0]) == module.results(HOOK)["activations_skipped"] == len(places)
    assert bool(torch.isfinite(dictionary.atoms).all())
    assert not {(source.row, source.position) for source in dictionary.sources} & set(SPOILED)
    named = [record.getMessage() for record in caplog.records if "are zero or not finite" in record.getMessage()]
    row, position = min(places)
    assert any(
        f"activations at {HOOK} are zero" in text and f"row={row}, position={position}" in text for text in named
    )
    assert all("they are skipped and counted" in text for text in named)


def test_unusable_activations_may_be_refused(data_of, monkeypatch):
    data = data_of()
    spoil(monkeypatch, {(20, position): math.nan for position in range(1, 32)})
    with pytest.raises(
        InputError, match=rf"\d+ of \d+ activations at {HOOK} are zero or not finite: Source\(document="
    ):
        fitted(data, bad_activations="refuse")


def test_nothing_but_unusable_activations(data_of, monkeypatch):
    spoil(monkeypatch, {(row, position): math.nan for row in range(70) for position in range(1, 32)})
    with pytest.raises(InputError, match=rf"all \d+ calibration activations at {HOOK} are zero or not finite"):
        fitted(data_of())


@pytest.mark.parametrize("limit", [{"max_steps": 0}, {"limit_train_batches": 0}, {"max_time": {"seconds": 0}}])
def test_a_trainer_that_would_show_no_activations(data_of, limit):
    with pytest.raises(InputError, match=rf"trainer.{next(iter(limit))} is 0: the fit would see no activations"):
        trainer(**limit).fit(ITDA(max_atoms=150, k=4), datamodule=data_of())


def test_activations_that_are_all_alike(data_of, monkeypatch):
    spoil(monkeypatch, {(row, position): 2.0 for row in range(70) for position in range(1, 32)})
    module = fitted(data_of())
    assert module.dictionary().n_atoms == 0
    assert module.results(HOOK)["fvu"] == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_atoms": 0}, r"model.max_atoms must be at least 1, got 0"),
        ({"k": -1}, r"model.k must be at least 1, got -1"),
        ({"calibration_tokens": 0}, r"model.calibration_tokens must be at least 1, got 0"),
        ({"threshold": 0.2, "paper_threshold": 4e-4}, r"give model.threshold or model.paper_threshold, not both"),
        ({"threshold": 1.0}, r"model.threshold 1 can never append an atom: .* give a value between 0 and 1"),
        ({"threshold": 0.0}, r"model.threshold 0 appends every activation"),
        ({"threshold": -0.5}, r"model.threshold -0.5 appends every activation"),
        ({"threshold": math.nan}, r"model.threshold nan"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(InputError, match=message):
        ITDA(**arguments)


@pytest.mark.parametrize(
    ("paper_threshold", "message"),
    [
        (0.07, r"model.paper_threshold: the paper's threshold 0.07 at d_in 32 means cos.*< -0.12: nothing would"),
        (-1e-3, r"model.paper_threshold: the paper's threshold -0.001 at d_in 32 means .*everything would"),
    ],
)
def test_a_threshold_of_the_paper_that_takes_nothing_or_everything(data_of, paper_threshold, message):
    with pytest.raises(InputError, match=message):
        fitted(data_of(), threshold=None, paper_threshold=paper_threshold)


def test_a_threshold_of_the_paper_is_converted_and_logged(data_of, caplog):
    with caplog.at_level("INFO", logger="itda_lightning"):
        module = fitted(data_of(), threshold=None, paper_threshold=0.03)
    assert float(module.thresholds[0]) == pytest.approx(1 - (1 - 0.03 * 32 / 2) ** 2)
    assert "0.7296 of the energy left unexplained (the paper's 0.03 at d_in 32)" in caplog.text


def test_thresholds_that_hardly_fit_are_warned_of_with_their_forecast(data_of, caplog):
    fitted(data_of(), threshold=0.01, max_atoms=30)
    assert "threshold 0.0100 at blocks.1.hook_resid_post fills 30 atoms after about 3" in caplog.text
    caplog.clear()
    fitted(data_of(), threshold=0.995)
    assert "threshold 0.9950 at blocks.1.hook_resid_post appends only about" in caplog.text
    caplog.clear()
    fitted(data_of(), threshold=0.75, max_atoms=40)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_budget_below_the_number_of_atoms(data_of):
    with pytest.raises(
        InputError, match=r"cannot calibrate a threshold at blocks.1.*1,\d\d\d activations cannot fill 5,000"
    ):
        fitted(data_of(), threshold=None, max_atoms=5000)


def test_dictionaries_may_take_all_of_the_memory_and_no_byte_more(monkeypatch):
    settings, widths = ITDA(max_atoms=100).hparams, {"one": 64, "other": 32}
    needed = 100 * ((64 + 32) * 4 + 2 * PER_ATOM)
    monkeypatch.setattr(arguments, "total_memory", lambda device: needed)
    arguments.check_sizes(settings, widths)
    monkeypatch.setattr(arguments, "total_memory", lambda device: needed - 1)
    with pytest.raises(InputError, match=r"model.max_atoms 100 takes .* at 2 hook points, but there are .*: lower it"):
        arguments.check_sizes(settings, widths)


def test_a_refinement_that_cannot_be_is_refused_before_anything_is_written(data_of, tmp_path):
    run, refinement = RunSettings(directory=str(tmp_path / "run")), RefinementSettings(rate=2.0)
    with pytest.raises(InputError, match=r"refine.rate must be above 0 and at most 1 radian, got 2"):
        fit_run(trainer(), ITDA(max_atoms=8), data_of(), run, refinement)
    assert not list(tmp_path.iterdir())
