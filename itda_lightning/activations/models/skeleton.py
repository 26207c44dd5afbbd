"""The skeleton of a causal decoder of `transformers`, its modules without weights, and its residual stream.

A *level* is a place in the residual stream: 0 is the input of layer 0, l the output of layer l - 1.
"""

import re
from pathlib import Path
from typing import Any

from accelerate import init_empty_weights
from huggingface_hub import snapshot_download
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from itda_lightning.activations.models.adapters import check_no_adapter
from itda_lightning.activations.models.foreign_code import no_foreign_code
from itda_lightning.activations.models.model_name import LanguageModelName
from itda_lightning.activations.models.quantised import quantizer_of, replace_modules
from itda_lightning.errors import InputError

# Architectures (`model_type`) whose layers TransformerLens's bridge is known to take as they are. For others (GPT-2,
# GPT-J, GPT-Neo, BLOOM, Falcon) it has an attention of its own, and a harvest of other hook points has other last bits.
BRIDGED_ALIKE = {
    "gemma2", "gemma3_text", "gpt_neox", "gpt_oss", "llama", "mistral", "mixtral", "olmo2", "opt", "phi", "phi3",
    "qwen2", "qwen3", "qwen3_moe", "stablelm",
}  # fmt: skip


def directory_of(name: LanguageModelName) -> Path:
    """Return the directory of a model's files. Raises InputError for a model that was not downloaded."""
    path = Path(name.path_or_hub_name())
    if path.is_dir():
        return path
    try:
        directory = Path(snapshot_download(str(path), revision=name.revision, local_files_only=True))
    except Exception as error:  # the hub client raises a dozen types
        raise InputError(
            f"the language model {name.name!r} is neither a directory nor was it downloaded: run "
            f"`hf download {path}` first"
        ) from error
    check_no_adapter(directory)
    return directory


def config_of(path: Path | str, revision: str | None = None) -> Any:
    """Load the configuration of a model. Raises InputError for an architecture that `transformers` does not know."""
    try:
        with no_foreign_code(str(path)):
            return AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    except InputError:
        raise
    except (ValueError, OSError, KeyError) as error:
        raise InputError(
            f"the model in {path} has no architecture that `transformers` knows "
            f"({str(error).strip().splitlines()[0]}): check its config.json"
        ) from error


def decoder_config(path: Path | str, name: LanguageModelName) -> Any:
    """Load the configuration of a model. Raises InputError unless its loader runs a causal decoder's own modules."""
    config = config_of(path, name.revision)
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise InputError(f"the model in {path} is no causal decoder: its config is a {type(config).__name__}")
    if name.loader == "hooked_transformer":
        raise InputError(
            "loader=hooked_transformer is another implementation of the model, which the backends streamed and remote "
            "do not run: set loader=bridge or huggingface, or backend=in_memory"
        )
    if name.loader == "bridge" and config.model_type not in BRIDGED_ALIKE:
        raise InputError(
            f"TransformerLens's bridge is not known to give {config.model_type} models the same bits as their own "
            "modules, which the backends streamed and remote run: set loader=huggingface (hook points are module "
            "names), or backend=in_memory"
        )
    return config


def make_skeleton(directory: Path, name: LanguageModelName) -> Any:
    """Make a model without weights, in evaluation mode; its buffers (rotary frequencies, scales) are real.

    For a quantised checkpoint it has the modules that hold packed weights, and ``hf_quantizer``.
    """
    config, device = decoder_config(directory, name), name.torch_device()
    quantizer = quantizer_of(config, directory, name.torch_dtype(), refuse_others=True)
    with init_empty_weights(include_buffers=False):
        options: dict[str, Any] = {"dtype": name.torch_dtype(), "trust_remote_code": False}
        with no_foreign_code(name.name):
            model = AutoModelForCausalLM.from_config(config, **options)
    if quantizer is not None:
        replace_modules(model, quantizer, device)
    for module in model.modules():
        for buffer_name, buffer in module.named_buffers(recurse=False):
            module._buffers[buffer_name] = buffer.to(device)
    return model.eval().requires_grad_(False)


class ResidualStream:
    """The layers of a causal decoder, between which its residual stream, d_in ``width``, is read.

    ``layers_path`` is the path of the one list of layers in the model, such as ``model.layers``.
    """

    def __init__(self, model: Any, name: LanguageModelName) -> None:
        self.name, self.config = name, model.config.get_text_config()
        self.width: int = self.config.hidden_size
        self.longest_context: int | None = getattr(self.config, "max_position_embeddings", None)
        self.n_layers: int = self.config.num_hidden_layers
        inner = set(model.get_decoder().modules())
        paths = [
            path
            for path, module in model.named_modules()
            if isinstance(module, nn.ModuleList) and len(module) == self.n_layers and module in inner
        ]
        # Lists within layers (experts) may have the same length: the decoder's own is the outermost.
        if not paths or any(not other.startswith(f"{paths[0]}.") for other in paths[1:]):
            raise InputError(
                f"the architecture {type(model).__name__} of {name.name!r} cannot be read layer by layer: it has "
                f"{len(paths)} lists of {self.n_layers} layers; set backend=in_memory"
            )
        self.layers_path = paths[0]

    def levels(self, hook_names: list[str]) -> dict[str, int]:
        """Return the levels of hook points. Raises InputError for one that is not in the residual stream."""
        if self.name.loader == "huggingface":
            pattern, known = rf"{re.escape(self.layers_path)}\.(\d+)()", f"{self.layers_path}.N"
        else:
            pattern = r"blocks\.(\d+)\.hook_resid_(pre|post)"
            known = "blocks.N.hook_resid_pre and blocks.N.hook_resid_post"
        levels = {}
        for hook_name in hook_names:
            match = re.fullmatch(pattern, hook_name)
            if match is None or int(match[1]) >= self.n_layers:
                raise InputError(
                    f"the backends streamed and remote cannot give the hook point {hook_name!r} of {self.name.name!r}: "
                    f"they give {known} with N from 0 to {self.n_layers - 1}; for others set backend=in_memory"
                )
            levels[hook_name] = int(match[1]) + (match[2] != "pre")
        return levels
