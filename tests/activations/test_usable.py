"""Activations that are zero or not finite are named, and left out or refused."""

from collections.abc import Iterator

import pytest
import torch

from itda_lightning.activations import datamodule
from itda_lightning.activations.batches import usable
from itda_lightning.activations.harvesting import RowActivations
from itda_lightning.activations.text.rows import Rows
from itda_lightning.errors import InputError
from tests.activations.conftest import HOOK, MakeData
from tests.fits import fitted

TABLE = torch.arange(8 * 6).reshape(8, 6)


def activations(*bad: int) -> torch.Tensor:
    x = torch.ones(8, 3)
    kinds = [[0.0, 0, 0], [float("nan"), 1, 1], [1, float("inf"), 1], [1, 1, -float("inf")]]
    for index, kind in zip(bad, kinds, strict=False):
        x[index] = torch.tensor(kind)
    return x


def test_good_activations_pass_silently(caplog: pytest.LogCaptureFixture) -> None:
    x = activations()
    x[0] = torch.tensor([0.0, 0, 1e-30])
    assert usable(x, TABLE, "hook", "refuse").all()
    assert caplog.text == ""


def test_bad_ones_are_skipped_and_named(caplog: pytest.LogCaptureFixture) -> None:
    good = usable(activations(1, 3, 4, 6), TABLE, "blocks.8.hook_resid_post", "skip")
    assert good.tolist() == [True, False, True, False, False, True, False, True]
    assert "4 of 8 activations at blocks.8.hook_resid_post are zero or not finite: " in caplog.text
    assert "Source(document=6, row=7, position=8, token=9, start=10, end=11)" in caplog.text
    assert "they are skipped and counted" in caplog.text


def test_five_are_named_at_most(caplog: pytest.LogCaptureFixture) -> None:
    usable(torch.zeros(8, 3), TABLE, "hook", "skip")
    assert caplog.text.count("Source(") == 5
    assert "8 of 8" in caplog.text


def test_refusal_names_the_remedies() -> None:
    with pytest.raises(
        InputError,
        match=r"1 of 8 activations at hook are zero or not finite: Source\(document=12, row=13.*\); "
        "set model.bad_activations=skip to leave them out, or use model_dtype=float32",
    ):
        usable(activations(2), TABLE, "hook", "refuse")


def test_data_without_any_usable_activation_are_refused_with_the_remedy(
    make_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data()

    def harvested(model: object, rows: Rows, *arguments: object) -> Iterator[RowActivations]:
        yield RowActivations(0, {HOOK: torch.full((len(rows), rows.context_size - 1, 3), torch.nan)})

    monkeypatch.setattr(datamodule, "harvest_among_ranks", harvested)
    monkeypatch.setattr(type(data), "widths", {HOOK: 3})
    remedy = r"zero or not finite: set data.model_dtype=float32, .* or name another hook point"
    with pytest.raises(InputError, match=f"all held-out activations at {HOOK} are {remedy}"):
        list(data.heldout_batches(HOOK))
    with pytest.raises(InputError, match=f"all .* calibration activations at {HOOK} are {remedy}"):
        fitted(data)
