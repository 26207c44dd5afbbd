"""The three kinds of loaded language models that users give, tiny, with the hook point after their second layer."""

from pathlib import Path
from typing import Any

import torch
from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.tiny_model import LAYERS, LONGEST_CONTEXT, VOCABULARY, WIDTH

KINDS = ("bridge", "hooked_transformer", "huggingface")
HOOKS = dict.fromkeys(KINDS, "blocks.1.hook_resid_post") | {"huggingface": "model.layers.1"}


def loaded(kind: str, directory: Path) -> tuple[Any, Any]:
    """Return the tiny model of a kind and its tokenizer; the HookedTransformer has weights of its own."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    if kind == "huggingface":
        return AutoModelForCausalLM.from_pretrained(directory).eval(), tokenizer
    if kind == "bridge":
        return SAETransformerBridge.boot_transformers(str(directory), device="cpu", dtype=torch.float32), tokenizer
    config = HookedTransformerConfig(
        n_layers=LAYERS,
        d_model=WIDTH,
        n_ctx=LONGEST_CONTEXT,
        d_head=8,
        n_heads=4,
        d_mlp=64,
        act_fn="gelu",
        d_vocab=VOCABULARY,
        init_weights=True,
        initializer_range=0.2,
        seed=0,
        device="cpu",
    )
    with torch.random.fork_rng():
        return HookedTransformer(config, tokenizer=tokenizer, move_to_device=False).eval(), tokenizer
