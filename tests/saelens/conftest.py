from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.sources import Prompt, Sources

HOOK = "blocks.1.hook_resid_post"
MakeDictionary = Callable[..., Dictionary]


@pytest.fixture(scope="session")
def make_dictionary() -> MakeDictionary:
    def make(
        n: int = 24,
        d: int = 16,
        *,
        sources: bool = True,
        metadata: dict[str, Any] | None = None,
        dtype: torch.dtype = torch.float32,
        **settings: Any,
    ) -> Dictionary:
        generator = torch.Generator().manual_seed(n + d)
        atoms = torch.nn.functional.normalize(torch.randn(n, d, generator=generator, dtype=dtype), dim=1)
        bias = torch.randn(d, generator=generator, dtype=dtype)
        # Beyond what float32 (2^24) and float64 (2^53) hold exactly.
        table = torch.stack([torch.arange(n) + 2 ** (10 * column) + 1 for column in range(1, 7)], dim=1)
        prompts = tuple(Prompt(f'“before {i}"', f"\n{i}", "\u2028 after é") for i in range(n))
        if metadata is None:
            metadata = {
                "hook_name": HOOK,
                "model_name": "tiny",
                "context_size": 8,
                "prepend_bos": False,
                "fit": {"τ": 0.1},
            }
        return Dictionary(
            atoms,
            bias,
            Sources(table, "fingerprint-of-documents", prompts) if sources else None,
            **({"k": 5, "metadata": metadata} | settings),
        )

    return make


@pytest.fixture(scope="session")
def activations() -> torch.Tensor:
    return 3 * torch.randn(40, 16, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of width 16 and a tokenizer of single words, as a directory."""
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    words = {"<s>": 0, "</s>": 1, "<unk>": 2} | {f"w{i}": i for i in range(3, 32)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    ).save_pretrained(path)
    return path


def assert_same(loaded: Dictionary, original: Dictionary) -> None:
    assert torch.equal(loaded.atoms, original.atoms)
    assert torch.equal(loaded.bias, original.bias)
    assert torch.equal(loaded.source_table, original.source_table)
    for name in ("dataset", "prompts", "k", "pursuit", "nonnegative", "metadata"):
        assert getattr(loaded, name) == getattr(original, name), name
