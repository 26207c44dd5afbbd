"""Harvested activations are those of a plain forward pass of `transformers`."""

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from itda_lightning.activations.harvesting import harvest
from itda_lightning.activations.store import make_store
from tests.activations.conftest import HOOK, MakeData
from tests.tiny_model import save_weights

# hidden_states[0] is the embedding, hidden_states[i + 1] what layer i leaves, the last one normalised.
HIDDEN_STATE = {"blocks.0.hook_resid_pre": 0, "blocks.0.hook_resid_post": 1, "blocks.1.hook_resid_post": 2}
MODULES = {"model.embed_tokens": 0, "model.layers.0": 1, "model.layers.1": 2}


def harvested(data: Any, batch: int = 8, start: int = 0, stop: int | None = None) -> dict[str, torch.Tensor]:
    parts = list(harvest(data.language_model, data.rows("heldout"), batch, start, stop))
    return {hook: torch.cat([part.activations[hook] for part in parts]) for hook in data.hook_names}


def hidden_states(directory: Path, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(directory)(tokens, output_hidden_states=True).hidden_states


@pytest.mark.parametrize(("loader", "hooks"), [("bridge", HIDDEN_STATE), ("huggingface", MODULES)])
@pytest.mark.parametrize("first", [True, False])
def test_activations_are_the_hidden_states(
    make_data: MakeData, tiny_model_dir: Path, loader: str, hooks: dict[str, int], first: bool
) -> None:
    data = make_data(
        loader=loader, hook_names=list(hooks), exclude_first_position=first, prepend_bos=False, validation_tokens=320
    )
    expected = hidden_states(tiny_model_dir, data.rows("heldout").tokens)
    for hook, values in harvested(data).items():
        assert values.shape == (20, 15 if first else 16, 32)
        torch.testing.assert_close(values, expected[hooks[hook]][:, int(first) :], rtol=1e-4, atol=1e-4)


def test_heads_are_joined(make_data: MakeData) -> None:
    assert harvested(make_data(hook_names=["blocks.1.attn.hook_z"]))["blocks.1.attn.hook_z"].shape == (32, 15, 32)


def test_several_hook_points_in_one_pass_are_those_of_single_passes(make_data: MakeData) -> None:
    hooks = ["blocks.2.hook_resid_post", "blocks.0.hook_resid_post", "blocks.1.mlp.hook_post"]
    together = harvested(make_data(hook_names=hooks))
    for hook in hooks:
        assert together[hook].equal(harvested(make_data(hook_names=[hook]))[hook])


def test_a_fine_tune_saved_to_a_directory_is_read(make_data: MakeData, tiny_model_dir: Path, tmp_path: Path) -> None:
    tuned = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    with torch.no_grad():
        tuned.model.layers[1].mlp.down_proj.weight.mul_(1.5)
    directory = Path(shutil.copytree(tiny_model_dir, tmp_path / "tuned"))
    tuned.save_pretrained(directory)
    data = make_data(model=str(directory))
    ours, base = harvested(data)[HOOK], harvested(make_data())[HOOK]
    expected = hidden_states(directory, data.rows("heldout").tokens)[2][:, 1:]
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    assert (ours - base).norm() > 0.01 * base.norm()


def test_a_part_of_the_rows_is_that_part(make_data: MakeData) -> None:
    data = make_data()
    whole = harvested(data)[HOOK]
    assert harvested(data, 8, 8, 19)[HOOK].equal(whole[8:19])
    assert list(harvest(data.language_model, data.rows("heldout"), 8, 32)) == []
    numbered = [part.first_row for part in harvest(data.language_model, data.rows("heldout"), 8, 8, 19)]
    assert numbered == [8, 16]


def test_the_batch_of_rows_changes_nothing_but_rounding(make_data: MakeData) -> None:
    data = make_data()
    whole = harvested(data)[HOOK]
    for batch in (1, 5, 100):
        torch.testing.assert_close(harvested(data, batch)[HOOK], whole, rtol=1e-4, atol=1e-4)


def test_activations_of_a_bfloat16_model_are_those_of_its_own_arithmetic(make_data: MakeData) -> None:
    half, full = (harvested(make_data(model_dtype=dtype))[HOOK] for dtype in ("bfloat16", "float32"))
    assert half.dtype == torch.bfloat16
    assert 0 < (half.float() - full).norm() < 0.05 * full.norm()


def test_nothing_is_warned_about(make_data: MakeData) -> None:
    data = make_data()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        harvested(data)


def test_a_store_reads_the_rows_in_order(make_data: MakeData) -> None:
    data = make_data()
    tokens = data.rows("heldout").tokens
    store = make_store(data.language_model, data.rows("heldout"), 0, 4)
    assert store.get_batch_tokens().equal(tokens[:4])
    assert store.get_batch_tokens().equal(tokens[4:8])


def test_other_weights_give_other_activations(make_data: MakeData, tiny_model_dir: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny_model_dir, tmp_path / "other"))
    save_weights(other, seed=1)
    assert not harvested(make_data(model=str(other)))[HOOK].allclose(harvested(make_data())[HOOK], atol=0.1)
