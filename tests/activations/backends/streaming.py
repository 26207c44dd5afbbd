"""Tiny models of many architectures in several shards, and streamed harvests in processes that can be killed."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import torch
import transformers

from itda_lightning.activations.backends.harvest_plan import HarvestSettings
from itda_lightning.activations.backends.streamed.streamed_backend import StreamedBackend
from itda_lightning.activations.datamodule import ActivationsDataModule
from tests.processes import PROCESSES
from tests.tiny_model import BOS, EOS, LONGEST_CONTEXT, VOCABULARY

_SMALL = {
    "vocab_size": VOCABULARY,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": None,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": LONGEST_CONTEXT,
    "initializer_range": 0.2,
}
_LOCAL = {"sliding_window": 8, "head_dim": 8}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_GPT2 = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": LONGEST_CONTEXT}
_IDS = {name: value for name, value in _SMALL.items() if name.endswith("_id") or name == "vocab_size"}
# By the name of the configuration, without Config: what differs from the above. Windows are shorter than rows.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Llama": _SMALL,
    "Qwen2": _SMALL | {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
    "Qwen3": _SMALL | {"head_dim": 8},
    "Gemma2": _SMALL | _LOCAL | {"query_pre_attn_scalar": 8},
    "Gemma3Text": _SMALL | _LOCAL | {"query_pre_attn_scalar": 8, "num_hidden_layers": 7},
    "Mistral": _SMALL | {"sliding_window": 8},
    "GPTNeoX": {name: value for name, value in _SMALL.items() if name != "num_key_value_heads"},
    "Mixtral": _SMALL | _EXPERTS,
    "GPT2": _IDS | _GPT2 | {"initializer_range": 0.2},
}

# By name: how bitsandbytes quantises, and the dtype of what it leaves.
QUANTISED: dict[str, tuple[dict[str, Any], str]] = {
    "nf4": ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "float32"),
    "fp4": (
        {"load_in_4bit": True, "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": torch.bfloat16},
        "bfloat16",
    ),
    "int8": ({"load_in_8bit": True, "llm_int8_threshold": 2.0}, "float32"),  # so that there are outliers
}
# Widths that its kernels for CPUs take.
BLOCKS = {"hidden_size": 128, "intermediate_size": 192, "head_dim": 32}


def save_model(architecture: str, directory: Path, tokenizer_of: Path, **changes: Any) -> Path:
    """A random model in shards of at most 20 kB, with another model's tokenizer."""
    config = getattr(transformers, f"{architecture}Config")(**ARCHITECTURES[architecture] | changes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(directory, max_shard_size="20KB")
    for file in tokenizer_of.glob("tokenizer*"):
        shutil.copy(file, directory)
    assert len(list(directory.glob("model-*.safetensors"))) > 5
    return directory


def save_quantised(architecture: str, kind: str, directory: Path, tokenizer_of: Path) -> Path:
    """Save a model of wider layers in ``directory / "whole"`` and, quantised, in ``directory / kind``; return the
    latter.
    """
    whole = save_model(architecture, directory / "whole", tokenizer_of, **BLOCKS)
    packed = quantise(whole, kind, directory / kind, max_shard_size="20KB")
    assert len(list(packed.glob("model-*.safetensors"))) > 5
    return packed


def quantise(model: Path, kind: str, directory: Path, max_shard_size: str, **config: Any) -> Path:
    """A model of another directory quantised, with its tokenizer; ``config`` are changes of its configuration."""
    settings, dtype = QUANTISED[kind]
    transformers.AutoModelForCausalLM.from_pretrained(
        model, quantization_config=transformers.BitsAndBytesConfig(**settings), dtype=dtype, **config
    ).save_pretrained(directory, max_shard_size=max_shard_size)
    for file in model.glob("tokenizer*"):
        shutil.copy(file, directory)
    return directory


def files(path: Path) -> dict[str, bytes]:
    """Return the contents of all files below a directory by path, without checksums of weights."""
    found = (file for file in path.rglob("*") if file.is_file() and not file.name.startswith("weights-"))
    return {str(file.relative_to(path)): file.read_bytes() for file in found}


def backend(data: ActivationsDataModule, slab_rows: int | None = None) -> StreamedBackend:
    """A streamed backend whose memory suffices for slabs of so many rows."""
    memory = None if slab_rows is None else StreamedBackend(data, HarvestSettings()).memory_for(slab_rows)
    return StreamedBackend(data, HarvestSettings(memory=memory))


def killed_at(moment: str, settings: dict[str, Any], slab_rows: int, computed: Path) -> None:
    """A streamed harvest in a process of its own that kills itself at a moment (``_MOMENTS``).

    It adds a line to ``computed`` for every batch that went through a layer.
    """
    process = PROCESSES.Process(target=_child, args=(moment, settings, slab_rows, str(computed)))
    process.start()
    process.join(1200)
    assert process.exitcode == -signal.SIGKILL, process.exitcode


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _child(moment: str, settings: dict[str, Any], slab_rows: int, computed: str) -> None:
    from itda_lightning.activations import cache
    from itda_lightning.activations.backends.streamed import slabs, streamed_backend
    from itda_lightning.activations.backends.streamed.streamed_decoder import StreamedDecoder

    torch.set_num_threads(1)
    count_batches(StreamedDecoder, Path(computed))
    kind, _, number = moment.partition(" ")
    left = int(number or 1)

    def now() -> bool:
        nonlocal left
        left -= 1
        return left == 0

    def half_written(path: Path, write: Any) -> None:
        def half(temporary: Path) -> None:
            write(temporary)
            os.truncate(temporary, temporary.stat().st_size // 2)
            _die()

        write_file(path, half if now() else write)

    write_file = slabs.write_file
    if kind == "slab":
        slabs.write_file = half_written
    elif kind == "between":
        unlink = Path.unlink

        def die_instead(path: Path, missing_ok: bool = False) -> None:
            if ".level-" in path.name and now():
                _die()
            unlink(path, missing_ok)

        Path.unlink = die_instead  # type: ignore[assignment, method-assign]
    elif kind == "weights":
        load = StreamedDecoder._load

        def die_before(decoder: Any, weights: Any) -> None:
            if now():
                _die()
            load(decoder, weights)

        StreamedDecoder._load = die_before  # type: ignore[assignment, method-assign]
    elif kind == "cache":
        cache.write_file = half_written
    elif kind == "end":
        vars(streamed_backend.shutil)["rmtree"] = lambda *arguments, **keywords: _die()
    backend(ActivationsDataModule(**settings), slab_rows).fill()


def count_batches(decoder: Any, computed: Path) -> None:
    """Add a line to a file for every batch that goes through a layer."""
    forward_layer = decoder.forward_layer

    def counted(self: Any, index: int, hidden: Any) -> Any:
        with computed.open("a") as lines:
            lines.write(f"{index}\n")
        return forward_layer(self, index, hidden)

    decoder.forward_layer = counted
