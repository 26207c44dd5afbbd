"""The transfer command: its files, its output, and refusals before anything is written."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest
import torch

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.results.as_json import from_json
from itda_lightning.results.comparison import Comparison
from itda_lightning.transfer import transfer_command
from tests.other_model import other_model_dir, other_tokens_dir  # noqa: F401  fixtures
from tests.runs import HOOK, OTHER_HOOK, K


@pytest.fixture(scope="module")
def transferred(tiny_run, other_tokens_dir, tmp_path_factory) -> tuple[Path, str]:  # noqa: F811
    """Return the directory of a transfer to a model with another tokenizer, and the printed text."""
    place = tmp_path_factory.mktemp("transfer")
    output = place / "out"
    fitted = load_dictionary(tiny_run)
    # The native fit grows by the same rule; this one is calibrated sooner.
    fitted.metadata["fit"]["growth"] = "frozen_batch"
    fitted.save(place / "dictionary")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        transfer_command(
            str(place / "dictionary"),
            str(other_tokens_dir),
            str(output),
            target_hook_name=OTHER_HOOK,
            device="cpu",
            loss_tokens=128,
        )
    return output, printed.getvalue()


def test_it_measures_three_dictionaries_of_one_size(transferred, tiny_run) -> None:
    output, printed = transferred
    comparison = from_json((output / "transfer.json").read_text(), Comparison)
    rows = {row.name: row for row in comparison.rows}
    assert list(rows) == ["transferred", "native fit", "random atoms"]
    n = load_dictionary(output).n_atoms
    assert [row.width for row in rows.values()] == [n] * 3
    assert len({row.tokens_hash for row in rows.values()}) == 1
    for row in rows.values():
        for measure in ("fvu", "ce_loss_increase", "kl_div_with_sae"):
            assert row.measures[measure].error is not None
    assert re.search(r"FVU +CE increase +KL", printed)
    original = load_dictionary(tiny_run).n_atoms
    assert comparison.facts["atoms rebuilt"] == f"{n} of {original}"
    assert int(comparison.facts["sources without a token of their own"]) == original - n > 0
    assert comparison.facts["hook point"] == OTHER_HOOK
    assert {"dataset", "held-out tokens' hash", "errors", "versions"} <= comparison.facts.keys()


def test_its_output_is_a_run_with_the_same_sources(transferred, tiny_run, other_tokens_dir) -> None:  # noqa: F811
    output, _ = transferred
    rebuilt, original = load_dictionary(output), load_dictionary(tiny_run)
    kept = rebuilt.metadata["transfer"]["atoms"]
    ends = [(source.document, source.row, source.end) for source in original.sources]
    assert [(source.document, source.row, source.end) for source in rebuilt.sources] == [ends[atom] for atom in kept]
    assert rebuilt.dataset == original.dataset
    assert rebuilt.k == K
    assert rebuilt.metadata["data"]["model"] == str(other_tokens_dir)
    assert rebuilt.metadata["hook_name"] == OTHER_HOOK
    assert json.loads((output / "versions.json").read_text())["itda-lightning"]
    assert (output / "transfer.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_hook_name": "blocks.9.hook_resid_post"}, "has no hook point 'blocks.9.hook_resid_post'"),
        ({"model": "/nowhere/model"}, "'/nowhere/model'"),
        ({"hook_name": OTHER_HOOK}, "holds no dictionary of"),
        ({"loss_tokens": 3}, "loss_tokens must be at least 16, got 3: that is one row"),
    ],
)
def test_what_cannot_be_transferred_is_refused_and_nothing_is_written(
    tiny_run,
    other_model_dir,  # noqa: F811
    tmp_path,
    options,
    message,
) -> None:
    output = tmp_path / "out"
    arguments = {"dictionary": str(tiny_run), "model": str(other_model_dir), "output": str(output), "device": "cpu"}
    with pytest.raises(InputError, match=re.escape(message)):
        transfer_command(**(arguments | options))
    assert not output.exists()


def test_a_dictionary_without_sources_is_refused(tiny_run, other_model_dir, tmp_path) -> None:  # noqa: F811
    fitted = load_dictionary(tiny_run)
    Dictionary(torch.eye(32), k=K, metadata=fitted.metadata).save(tmp_path / "bare")
    with pytest.raises(InputError, match="has no sources, so there are no prompts to run"):
        transfer_command(str(tmp_path / "bare"), str(other_model_dir), str(tmp_path / "out"), device="cpu")


def test_an_output_that_exists_is_left_alone(tiny_run, other_model_dir, tmp_path) -> None:  # noqa: F811
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="exists already: a run never overwrites another"):
        transfer_command(str(tiny_run), str(other_model_dir), str(tmp_path / "out"), hook_name=HOOK, device="cpu")
