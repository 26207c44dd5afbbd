"""Hook points that are a module's are read from the model's own modules, and hold what the bridge gives there."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from itda_lightning.activations.harvesting import harvest
from itda_lightning.activations.models.language_model import LanguageModel
from itda_lightning.activations.models.model_name import LanguageModelName
from itda_lightning.activations.models.plain_model import PlainModel
from tests.activations.conftest import HOOK, MakeData
from tests.activations.models.architectures import save_model

STREAM = [
    "hook_embed", "blocks.0.hook_resid_post", "blocks.1.hook_resid_pre", "blocks.1.hook_resid_mid",
    "blocks.1.hook_attn_out", "blocks.1.hook_mlp_out", "blocks.1.hook_resid_post",
]  # fmt: skip
ROUNDING = {"rtol": 1e-4, "atol": 1e-4}
# Windows are shorter than rows, and scores reach far above what they are capped by.
GEMMA = {"sliding_window": 8, "attn_logit_softcapping": 0.5, "query_pre_attn_scalar": 1}
TOKENS = torch.arange(90).reshape(3, 30) * 37 % 380 + 3


def load(tokenizer_of: Path, path: Path, architecture: str, hooks: list[str], **settings: Any) -> LanguageModel:
    for file in tokenizer_of.glob("tokenizer*"):
        shutil.copy(file, path)
    save_model(architecture, path, **settings)
    return LanguageModel(LanguageModelName(str(path), device="cpu"), hooks)


def plain(model: LanguageModel) -> PlainModel:
    assert model.plain is not None
    return model.plain


def of_bridge(model: LanguageModel, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        cache = model.model.run_with_cache(tokens, names_filter=list(model.widths), prepend_bos=False)[1]
    return {hook: cache[hook] for hook in model.widths}


@pytest.mark.parametrize(
    ("architecture", "attention", "settings"),
    [
        ("Llama", "sdpa", {}),
        ("Qwen3", "sdpa", {}),
        ("Mistral", "sdpa", {"sliding_window": 8}),
        ("Mixtral", "sdpa", {}),
        ("GPT2", "sdpa", {}),
        ("GPTNeoX", "sdpa", {"num_key_value_heads": 2}),
        ("Gemma2", "eager", GEMMA),
    ],
)
def test_modules_give_what_the_bridge_gives(
    tiny_model_dir: Path, tmp_path: Path, architecture: str, attention: str, settings: dict[str, Any]
) -> None:
    hooks = [hook for hook in STREAM if architecture != "GPTNeoX" or hook != "blocks.1.hook_resid_mid"]
    model = load(tiny_model_dir, tmp_path, architecture, hooks, **settings)
    read, expected = plain(model).read(TOKENS), of_bridge(model, TOKENS)
    assert list(read) == hooks
    for hook in hooks:
        torch.testing.assert_close(read[hook], expected[hook], **ROUNDING)
    # To the bit what `transformers` gives, with the attention that it chooses; the bridge keeps its own.
    own = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        states = own(TOKENS, output_hidden_states=True, use_cache=False).hidden_states
    assert read["blocks.0.hook_resid_post"].equal(states[1])
    assert plain(model).model.config._attn_implementation == own.config._attn_implementation == attention
    assert model.model.original_model.config._attn_implementation == "eager"


def test_what_caps_and_windows_do_is_seen(tiny_model_dir: Path, tmp_path: Path) -> None:
    hook = "blocks.1.hook_resid_post"
    read = [
        plain(load(tiny_model_dir, tmp_path, "Gemma2", [hook], **GEMMA | changes)).read(TOKENS)[hook]
        for changes in ({}, {"attn_logit_softcapping": None}, {"sliding_window": 64})
    ]
    for other in read[1:]:
        assert (other - read[0]).norm() > 0.01 * read[0].norm()


@pytest.mark.parametrize("hook", ["blocks.1.attn.hook_z", "blocks.1.attn.hook_q", "blocks.1.ln1.hook_normalized"])
def test_what_no_module_gives_is_read_from_the_bridge(tiny_model_dir: Path, hook: str, make_data: MakeData) -> None:
    data = make_data(hook_names=[hook, HOOK])
    assert data.language_model.plain is None
    (read,) = harvest(data.language_model, data.rows("heldout"), 4, 0, 4)
    expected = of_bridge(data.language_model, data.rows("heldout").tokens[:4])
    for name, values in read.activations.items():
        assert values.equal(expected[name][:, 1:].flatten(2))


@pytest.mark.parametrize(("loader", "hook"), [("bridge", HOOK), ("huggingface", "model.layers.1")])
def test_only_the_modules_up_to_the_last_hook_point_run(
    make_data: MakeData, monkeypatch: pytest.MonkeyPatch, loader: str, hook: str
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise AssertionError

    data = make_data(loader=loader, hook_names=[hook])
    model, rows = data.language_model, data.rows("heldout")
    expected = model.model.run_with_cache(rows.tokens[:4], prepend_bos=False)[1][hook][:, 1:]
    monkeypatch.setattr(model.model, "run_with_cache", fails)
    handle = plain(model).model.model.layers[2].register_forward_pre_hook(fails)
    (read,) = harvest(model, rows, 4, 0, 4)
    torch.testing.assert_close(read.activations[hook], expected, **ROUNDING)
    handle.remove()
    hooks = [[*module._forward_hooks] for module in plain(model).model.modules()]
    _ = plain(model).read(rows.tokens[:4])
    assert hooks == [[*module._forward_hooks] for module in plain(model).model.modules()]


def test_weights_are_shared_and_the_bridge_is_as_before(make_data: MakeData) -> None:
    model = make_data().language_model
    shared, bridged = plain(model).model, model.model.original_model
    assert {p.data_ptr() for p in shared.parameters()} == {p.data_ptr() for p in bridged.parameters()}
    tokens = TOKENS[:, :12]
    before = model.model(tokens)
    plain(model).read(tokens)
    assert model.model(tokens).equal(before)
    torch.testing.assert_close(shared(tokens).logits, before, **ROUNDING)


@pytest.mark.slow
def test_the_bundled_model(make_data: MakeData) -> None:
    hooks = ["blocks.0.hook_resid_pre", "blocks.9.hook_mlp_out", "blocks.9.hook_attn_out", "blocks.14.hook_resid_post"]
    data = make_data(
        model="bundled:smollm2-135m", hook_names=hooks, dataset="bundled:sotu", context_size=128, validation_tokens=512
    )
    tokens = data.rows("heldout").tokens[:4]
    read, expected = plain(data.language_model).read(tokens), of_bridge(data.language_model, tokens)
    for hook in hooks:
        error = (read[hook] - expected[hook]).norm(dim=-1) / expected[hook].norm(dim=-1)
        assert error.max() < 1e-4
        assert error.median() < 1e-5
