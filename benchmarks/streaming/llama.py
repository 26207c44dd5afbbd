"""The shapes of the Llama 3.1 models and of Llama 3.2 1B, as in their config.json, and the shapes of their tensors."""

from typing import Any

from accelerate import init_empty_weights
from transformers import AutoModelForCausalLM, LlamaConfig

ALL: dict[str, Any] = {
    "vocab_size": 128256,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
    "architectures": ["LlamaForCausalLM"],
}
SHAPES = {
    "8B": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "70B": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64},
    "405B": {"hidden_size": 16384, "intermediate_size": 53248, "num_hidden_layers": 126, "num_attention_heads": 128},
}
# Of Llama 3.2, which fits this memory.
SMALL = {
    "1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
}


def config(size: str, **changes: Any) -> LlamaConfig:
    """Return the configuration of Llama of a size, with some settings changed."""
    return LlamaConfig(**{**ALL, **(SHAPES | SMALL)[size], **changes})


def shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of the model's files, by name."""
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
