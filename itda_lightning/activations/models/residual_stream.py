"""The residual stream of a causal decoder of `transformers`: the path of its layers, and the hook points between them.

A *level* is a place in the residual stream: 0 is the input of layer 0, l the output of layer l - 1.
"""

import re
from typing import Any

from torch import nn

from itda_lightning.activations.models.language_model import LanguageModelName
from itda_lightning.errors import InputError

BRIDGE_HOOK = re.compile(r"blocks\.(\d+)\.hook_resid_(pre|post)")


def find_layers(model: Any, name: LanguageModelName) -> str:
    """Return the path of the list of layers in a model, such as ``model.layers``.

    Raises:
        InputError: the decoder has no such list, or several.
    """
    n_layers = model.config.get_text_config().num_hidden_layers
    inner = {id(module) for module in model.get_decoder().modules()}
    paths = [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers and id(module) in inner
    ]
    # Lists within layers (experts) may have the same length: the decoder's own is the outermost.
    if not paths or any(not other.startswith(f"{paths[0]}.") for other in paths[1:]):
        raise InputError(
            f"the architecture {type(model).__name__} of {name.name!r} cannot be read layer by layer: it has "
            f"{len(paths)} lists of {n_layers} layers; set backend=in_memory"
        )
    return paths[0]


def level_of(hook_name: str, name: LanguageModelName, layers: str, n_layers: int) -> int:
    """Return the level of a hook point in a model whose layers are at the path ``layers``.

    Raises:
        InputError: a hook point outside of the residual stream between layers.
    """
    if name.loader == "huggingface":
        match = re.fullmatch(rf"{re.escape(layers)}\.(\d+)", hook_name)
        level, known = int(match[1]) + 1 if match else -1, f"{layers}.N"
    else:
        match = BRIDGE_HOOK.fullmatch(hook_name)
        level = int(match[1]) + (match[2] == "post") if match else -1
        known = "blocks.N.hook_resid_pre and blocks.N.hook_resid_post"
    if match is None or not 0 <= int(match[1]) < n_layers:
        raise InputError(
            f"the backends streamed and remote cannot give the hook point {hook_name!r} of {name.name!r}: they give "
            f"{known} with N from 0 to {n_layers - 1}; for others set backend=in_memory"
        )
    return level
