"""Models opened for a study: the text that they read, and what is refused before anything runs."""

from pathlib import Path
from typing import Any

import pytest
import torch

from itda_lightning import Dictionary, InputError
from itda_lightning.across_models.compared_models import SameText
from itda_lightning.across_models.similarity_study import compare_models
from itda_lightning.activations.text.retokenisation import retokenise
from itda_lightning.dictionary.sources import Sources
from tests.across_models.study import FIT, HOOKS, data_of, settings_of
from tests.fits import data_settings
from tests.other_model import other_tokens_dir  # noqa: F401  a fixture
from tests.runs import HOOK
from tests.tiny_model import LONGEST_CONTEXT

pytestmark = pytest.mark.filterwarnings("ignore")


def test_what_is_longer_than_the_other_model_reads_is_cut_off(
    tiny_model_dir: Path,
    other_tokens_dir: Path,  # noqa: F811
    prose_file: Path,
) -> None:
    """The tokenizer does not say how much that is: its model's configuration does."""
    own, other = (
        SameText(**data_settings(model, prose_file, context_size=LONGEST_CONTEXT, device="cpu"))
        for model in (tiny_model_dir, other_tokens_dir)
    )
    tokenizer: Any = other.tokenizer
    assert tokenizer.model_max_length > 10**9
    uncut = retokenise(own.rows("heldout"), own.tokenizer, other.tokenizer, prepend_bos=True)
    assert uncut.context_size > LONGEST_CONTEXT
    other.read_the_text_of(own, "heldout")
    rows = other.rows("heldout")
    assert rows.context_size == LONGEST_CONTEXT
    assert rows.tokens.tolist() == uncut.tokens[:, :LONGEST_CONTEXT].tolist()
    read = sum(len(batch) for batch in other.val_dataloader())
    assert read == rows.n_kept > 0


@pytest.mark.parametrize(
    ("models", "changes", "message"),
    [
        ({"A": {"hook_names": HOOKS[:1]}}, {}, r"A at blocks.0.hook_resid_post alone cannot be compared: give another"),
        (
            {"A": {"hook_names": HOOKS[:1]}, "B": {"hook_names": ["blocks.0.hook_mlp_out"]}},
            {},
            r"hook points of A are \['blocks.\*.hook_resid_post'\], those of B \['blocks.\*.hook_mlp_out'\]",
        ),
        ({"A": {"hook_names": HOOKS}}, {"cache_dir": None}, "activations are read more than once: set data.cache_dir"),
        ({"A": {"hook_names": [*HOOKS[:1], "blocks.9.hook_resid_post"]}}, {}, "has no hook point 'blocks.9.hook_resid"),
        ({"A": {"hook_names": HOOKS}}, {}, "too few for relative, which needs 20,000 with these"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_runs(
    models, changes, message, tiny_model_dir, prose_file, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(SameText, "prepare_data", lambda self: pytest.fail("it harvests"))
    settings = settings_of(
        tmp_path, {name: {"model": str(tiny_model_dir), **one} for name, one in models.items()}, anchors=20_000
    )
    with pytest.raises(InputError, match=message):
        compare_models(settings, data_of(prose_file, tmp_path / "cache", **changes), FIT)


def test_runs_that_cannot_be_compared_are_refused(tiny_run, tiny_model_dir, prose, prose_file, tmp_path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("\n\n".join(prose))
    data = data_of(prose_file, tmp_path / "cache", holdout_fraction=0.1)
    fitted = {"model": str(tiny_model_dir), "hook_names": [HOOK]}
    cases = [
        ({"run": {"run": str(tmp_path / "nowhere")}}, data, "nowhere does not exist: give a run directory"),
        ({"run": {"run": str(tiny_run), "hook_names": ["x"]}}, data, "holds no dictionary of 'x'"),
        (
            {"run": {"run": str(tiny_run)}, "B": fitted},
            data | {"dataset": str(other)},
            r"read different datasets \(run: \w+, B: \w+\), which have no tokens in common",
        ),
        (
            {"run": {"run": str(tiny_run)}, "B": fitted},
            data | {"holdout_fraction": 0.2},
            "run has data.holdout_fraction 0.1, B",
        ),
    ]
    for models, shared, message in cases:
        with pytest.raises(InputError, match=message):
            compare_models(settings_of(tmp_path / "out", models), shared, FIT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": None}, f"the dictionary of run at {HOOK} has no sources: give one that was fitted"),
        ({"dataset": "other"}, "run was fitted on documents other, .* holds .*: give the documents of its fit"),
        ({"d_in": 5}, f"the dictionary has d_in 5 but {HOOK} of .* has 32 dimensions: it was fitted on another"),
        ({"data": {}}, "does not say which model and documents it was fitted on: give a run of itda_lightning.fit"),
    ],
)
def test_dictionaries_of_something_else_are_refused(
    changes, message, tiny_run, tiny_model_dir, prose_file, tmp_path
) -> None:
    fitted = Dictionary.load(tiny_run / "dictionaries" / HOOK)
    d_in = changes.get("d_in", fitted.d_in)
    Dictionary(
        torch.nn.functional.normalize(fitted.atoms[:, :d_in], dim=1),
        fitted.bias[:d_in],
        changes.get("sources", Sources(fitted.source_table, changes.get("dataset", fitted.dataset))),
        k=fitted.k,
        metadata=fitted.metadata | {name: value for name, value in changes.items() if name == "data"},
    ).save(tmp_path / "changed")
    models = {"run": {"run": str(tmp_path / "changed")}, "B": {"model": str(tiny_model_dir), "hook_names": [HOOK]}}
    data = data_of(prose_file, tmp_path / "cache", holdout_fraction=0.1)
    with pytest.raises(InputError, match=message):
        compare_models(settings_of(tmp_path / "out", models), data, FIT)
