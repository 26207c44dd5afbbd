"""A random language model that runs in milliseconds, with a real tokenizer."""

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LAYERS, WIDTH, VOCABULARY, LONGEST_CONTEXT = 3, 32, 384, 128
BOS, EOS = 0, 1


def save_tokenizer(path: Path, texts: Iterable[str]) -> None:
    """Train a byte-level BPE tokenizer with <s> and </s> on the texts and write it into ``path``."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False
    ).save_pretrained(path)


def save_weights(path: Path, seed: int, scale: float = 1.0) -> None:
    """Write a random Llama into ``path``; ``scale`` multiplies its embedding, and so its residual stream."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=LONGEST_CONTEXT,
        initializer_range=0.2,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        model.model.embed_tokens.weight.mul_(scale)
        model.save_pretrained(path)
