"""The skeleton of a causal decoder of `transformers`: its modules as its loader would make them, without the weights."""

from pathlib import Path
from typing import Any

from accelerate import init_empty_weights
from huggingface_hub import snapshot_download
from transformers import AutoConfig, AutoModelForCausalLM

from itda_lightning.activations.models.language_model import LanguageModelName
from itda_lightning.activations.models.quantised import quantizer_of, replace_modules
from itda_lightning.errors import InputError

# Architectures (`model_type`) that TransformerLens's bridge computes by the model's own modules, bit for bit. Others (GPT-2,
# GPT-J, GPT-Neo, BLOOM, Falcon) it gives an attention of its own, which differs in the last bits.
BRIDGED_ALIKE = {
    "gemma2", "gemma3_text", "gpt_neox", "gpt_oss", "llama", "mistral", "mixtral", "olmo2", "opt", "phi", "phi3", "qwen2",
    "qwen3", "qwen3_moe", "stablelm",
}  # fmt: skip


def directory_of(name: LanguageModelName) -> Path:
    """Where the files of a model lie. Raises InputError where it is neither a directory nor was downloaded."""
    path = Path(name.path_or_hub_name())
    if path.is_dir():
        return path
    try:
        return Path(snapshot_download(str(path), revision=name.revision, local_files_only=True))
    except Exception as error:  # the hub client raises a dozen types
        raise InputError(
            f"the language model {name.name!r} is neither a directory nor was it downloaded: run `hf download {path}` first"
        ) from error


def config_of(path: Path | str, revision: str | None = None) -> Any:
    """The configuration of a model. Raises InputError for an architecture that `transformers` does not know."""
    try:
        return AutoConfig.from_pretrained(path, revision=revision)
    except (ValueError, OSError, KeyError) as error:
        raise InputError(
            f"the model in {path} has no architecture that `transformers` knows "
            f"({str(error).strip().splitlines()[0]}): check its config.json"
        ) from error


def decoder_config(path: Path | str, name: LanguageModelName) -> Any:
    """The configuration of a causal decoder whose own modules compute what the model's loader gives.

    Raises:
        InputError: an unknown architecture, no causal decoder, or a loader that does not run the model's own modules.
    """
    config = config_of(path, name.revision)
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise InputError(f"the model in {path} is no causal decoder: its config is a {type(config).__name__}")
    if name.loader == "hooked_transformer":
        raise InputError(
            "loader=hooked_transformer is another implementation of the model, which the backends streamed and remote do "
            "not run: set loader=bridge or huggingface, or backend=in_memory"
        )
    if name.loader == "bridge" and config.model_type not in BRIDGED_ALIKE:
        raise InputError(
            f"TransformerLens's bridge is not known to give {config.model_type} models the same bits as their own modules, "
            "which are what the backends streamed and remote run: set loader=huggingface (hook points are module names), "
            "or backend=in_memory"
        )
    return config


def attention_of(name: LanguageModelName) -> dict[str, str]:
    """The attention as the loaders ask for it: TransformerLens's bridge for the plain one, `transformers` for its default."""
    return {"attn_implementation": "eager"} if name.loader == "bridge" else {}


def make_skeleton(directory: Path, name: LanguageModelName) -> Any:
    """The model without weights, in evaluation mode. Its buffers (rotary frequencies, scales) are real: no file holds them.

    Of a checkpoint that was quantised it has the modules that hold packed weights, and ``hf_quantizer``.

    Raises:
        InputError: weights quantised as ``quantised.quantizer_of`` refuses, or what ``decoder_config`` refuses.
    """
    config, device = decoder_config(directory, name), name.torch_device()
    quantizer = quantizer_of(config, directory, name.torch_dtype())
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=name.torch_dtype(), **attention_of(name))
    if quantizer is not None:
        replace_modules(model, quantizer, device)
    for module in model.modules():
        for buffer_name, buffer in module.named_buffers(recurse=False):
            module._buffers[buffer_name] = buffer.to(device)
    return model.eval().requires_grad_(False)
