"""Tiny random models of several architectures, in directories with a tokenizer."""

from pathlib import Path
from typing import Any

import torch
import transformers

from tests.tiny_model import BOS, EOS, VOCABULARY

SETTINGS: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": None,
}
OTHERS: dict[str, dict[str, Any]] = {
    "GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "num_key_value_heads": 2},
    "Gemma2": {"head_dim": 8},
    "Mixtral": {"num_local_experts": 3},
    "Qwen3": {"head_dim": 8},
}


def save_model(architecture: str, path: Path, **settings: Any) -> None:
    """Write a random model of an architecture of `transformers` into ``path``."""
    config = getattr(transformers, f"{architecture}Config")(**SETTINGS | OTHERS.get(architecture, {}) | settings)
    suffix = "LMHeadModel" if architecture == "GPT2" else "ForCausalLM"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        getattr(transformers, architecture + suffix)(config).save_pretrained(path)
