"""Fits on the first of the training tokens, while the cache holds all of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from itda_lightning import ITDA
from itda_lightning.activations.text.rows import Rows
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.errors import InputError
from tests.activations.conftest import HOOK, MakeData
from tests.fits import fitted

CONTEXT, ROWS, FIRST = 16, 140, 48


@pytest.fixture
def on_exactly(monkeypatch: pytest.MonkeyPatch, make_data: MakeData) -> Any:
    """Make data without a cache whose training rows are those given, and no more."""

    def make(rows: Rows, **changes: Any) -> Any:
        data = make_data(**({"training_tokens": len(rows) * CONTEXT} | changes))
        monkeypatch.setitem(data._rows, "train", rows)
        return data

    return make


def assert_same(one: ITDA, other: ITDA) -> Dictionary:
    """Check that two fits give the same dictionary, sources and metadata bit for bit; return the dictionary."""
    first, second = one.finished_dictionary(), other.finished_dictionary()
    assert torch.equal(first.atoms, second.atoms)
    assert torch.equal(first.bias, second.bias)
    assert torch.equal(first.source_table, second.source_table)
    assert first.prompts == second.prompts
    assert first.dataset == second.dataset
    names = ("threshold", "activations_seen", "growth")
    assert [first.metadata[name] for name in names] == [second.metadata[name] for name in names]
    return first


def test_a_fit_is_that_on_exactly_those_rows(make_data, on_exactly, tmp_path):
    """Rows that are drawn; those in order are in the next test."""
    rows = make_data().rows("train").select(torch.arange(FIRST))
    # Without a threshold, so that the calibration is seen to know no more than those rows.
    options = {"threshold": None, "max_atoms": 40, "calibration_tokens": 80}
    expected = fitted(on_exactly(rows), **options)
    for others in ({"cache_dir": str(tmp_path)}, {}):
        data = make_data(first_tokens=FIRST * CONTEXT, **others)
        assert len(data.cached_rows("train")) == ROWS
        assert data.rows("train").fingerprint() == rows.fingerprint()
        dictionary = assert_same(fitted(data, **options), expected)
        assert 0 < dictionary.metadata["activations_seen"] <= rows.n_kept
        assert dictionary.source_table[:, 1].max() < FIRST
        assert dictionary.metadata["data"]["first_tokens"] == FIRST * CONTEXT


def test_without_shuffling_it_is_a_smaller_number_of_training_tokens(make_data, tmp_path):
    few = make_data(shuffle=False, training_tokens=FIRST * CONTEXT)
    first = make_data(shuffle=False, first_tokens=FIRST * CONTEXT + 3, cache_dir=str(tmp_path))
    expected = fitted(few)
    assert_same(fitted(first), expected)
    assert_same(fitted(make_data(shuffle=False, first_tokens=FIRST * CONTEXT)), expected)


def test_the_cache_is_that_of_all_training_tokens(make_data, tmp_path, monkeypatch):
    settings: dict[str, Any] = {"cache_dir": str(tmp_path)}
    whole = make_data(**settings)
    whole.prepare_data()
    monkeypatch.setattr("itda_lightning.activations.model_and_rows.LanguageModel", pytest.fail)
    for tokens in (CONTEXT, FIRST * CONTEXT, ROWS * CONTEXT):
        part = make_data(first_tokens=tokens, **settings)
        part.prepare_data()
        assert part.cache("train").path == whole.cache("train").path
        assert part.widths == {HOOK: 32}
        read, everything = (
            torch.cat([batch.activations[HOOK] for batch in data.train_dataloader()]) for data in (part, whole)
        )
        assert len(read) == part.rows("train").n_kept
        assert torch.equal(read, everything[: len(read)])
    assert len(list(Path(tmp_path).iterdir())) == 2  # of training and of held-out rows


def test_a_cache_that_a_part_of_the_tokens_began_serves_all(make_data, tmp_path, monkeypatch):
    part = make_data(first_tokens=FIRST * CONTEXT, cache_dir=str(tmp_path))
    part.prepare_data()
    assert part.harvested_tokens == ROWS * CONTEXT + 512
    settings = json.loads((part.cache("train").path / "cache.json").read_text())
    assert settings == make_data(cache_dir=str(tmp_path)).cache("train").settings
    monkeypatch.setattr("itda_lightning.activations.model_and_rows.LanguageModel", pytest.fail)
    make_data(cache_dir=str(tmp_path)).prepare_data()


def test_held_out_rows_are_the_same(make_data):
    part, whole = make_data(first_tokens=CONTEXT), make_data()
    assert part.rows("heldout").fingerprint() == whole.rows("heldout").fingerprint()


@pytest.mark.parametrize("tokens", [CONTEXT - 1, 0, -CONTEXT, ROWS * CONTEXT + 1])
def test_tokens_that_are_not_there_are_refused(make_data, tokens):
    with pytest.raises(
        InputError,
        match=rf"data\.first_tokens must lie between one row of 16 and data\.training_tokens \(2,240\), got {tokens:,}",
    ):
        make_data(first_tokens=tokens)
