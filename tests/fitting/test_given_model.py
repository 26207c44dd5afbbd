"""Fits on a model that the user has loaded: any of three kinds, as those of a fit by name."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import itda_lightning as il
from tests.loaded_models import HOOKS, KINDS, loaded

SETTINGS: dict[str, Any] = {
    "max_atoms": 24,
    "k": 4,
    "context_size": 16,
    "training_tokens": 512,
    "validation_tokens": 128,
}
SETTINGS |= {"calibration_tokens": 128, "cache_dir": None, "refine": None, "progress": False, "batch_size": 128}


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_model_is_fitted_and_reads_on(kind, tiny_model_dir, prose, isolated_cache):
    model, tokenizer = loaded(kind, tiny_model_dir)
    fitted = il.fit(model, HOOKS[kind], prose, tokenizer=tokenizer, **SETTINGS)
    assert fitted.n_atoms > 10
    assert fitted.metadata["data"]["loader"] == kind
    assert il.load_model(fitted) is model
    x = fitted.decompose("a treaty of peace")
    assert x[-1].unexplained < 1
    if kind != "hooked_transformer":  # which has weights of its own
        by_name = il.fit(str(tiny_model_dir), HOOKS[kind], prose, loader=kind, device="cpu", **SETTINGS)
        if kind == "bridge":  # by name, it is read from its modules, whose attention rounds in another order
            torch.testing.assert_close(fitted.atoms, by_name.atoms, rtol=1e-4, atol=1e-4)
        else:
            assert torch.equal(fitted.atoms, by_name.atoms)
        assert fitted.sources.prompts == by_name.sources.prompts
        assert by_name.metadata["data"]["model"] == fitted.metadata["data"]["model"]


def test_what_is_no_model_that_can_be_read_is_one_line(tiny_model_dir, prose, isolated_cache):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()
    hook = HOOKS["huggingface"]
    for given, options, message in (
        (
            "gpt2",
            {"tokenizer": object()},
            "tokenizer is for a loaded model, 'gpt2' is loaded with its own",
        ),
        (model, {}, "the LlamaForCausalLM has no tokenizer: give it as tokenizer="),
        (torch.nn.Linear(2, 2), {}, "a model of transformers, got Linear"),
        (3, {}, "a model of transformers, got int"),
    ):
        with pytest.raises(il.InputError, match=message):
            il.fit(given, hook, prose[:2], **options)
    tokenizer = loaded("huggingface", tiny_model_dir)[1]
    with pytest.raises(il.InputError, match=r"\['loader'\] are those of the loaded model"):
        il.fit(model, hook, prose[:2], tokenizer=tokenizer, loader="bridge")
    with pytest.raises(il.InputError, match=r"has no hook point 'blocks.1': did you mean one of"):
        il.fit(model, "blocks.1", prose, tokenizer=tokenizer, **SETTINGS)
    with pytest.raises(il.InputError, match=r"in training mode.*call model.eval\(\) first"):
        il.fit(model.train(), hook, prose[:2], tokenizer=tokenizer)
