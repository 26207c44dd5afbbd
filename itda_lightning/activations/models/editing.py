"""Change what a language model computes at a hook point while it runs, on any of three kinds of models.

Models read with a cache of keys and values: each forward pass then sees new tokens only. The first token of a text is
therefore known by what the cache holds, and by the attention mask if rows are padded on the left.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce, wraps
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from sae_lens.load_model import HookedProxyLM
from torch import Tensor, nn
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel

from itda_lightning.activations.models.hook_points import no_such_hook_point
from itda_lightning.errors import InputError

# The residual stream before or after a layer, in TransformerLens's names, and a layer as a module of `transformers`.
STREAM = re.compile(r"^blocks\.(\d+)\.(?:hook_resid_(pre|post)|hook_(in|out))$")
LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)$")
BEFORE = ("pre", "in")

# Takes activations (batch, positions, d) and True for the first token of each text; returns what replaces them.
Edit = Callable[[Float[Tensor, "batch positions d"], Bool[Tensor, "batch positions"]], Tensor]


class Place(NamedTuple):
    """A module at whose input or output activations are; ``width`` is d if they are of the residual stream."""

    module: nn.Module
    at_input: bool
    width: int | None


@contextmanager
def edited(model: Any, hook_name: str, edit: Edit, d_in: int) -> Iterator[None]:
    """Let ``edit`` change the activations at a hook point in every forward pass; afterwards the model is as before.

    Args:
        model: TransformerLens's bridge or HookedTransformer, or a model of `transformers`.
        hook_name: a hook point of either kind; the residual stream is found in models of the other kind, too.
        edit: called in each forward pass.
        d_in: width that activations must have.

    Raises:
        InputError: another kind of model, an unknown hook point, activations of another width.
    """
    model = model.model if isinstance(model, HookedProxyLM) else model
    place = find_place(model, hook_name)
    reads = _Reads()

    def change(x: Tensor) -> Tensor:
        flat = x.flatten(2)  # heads
        _check_width(flat.shape[-1], d_in, hook_name)
        return edit(flat, reads.first(flat)).reshape(x.shape)

    if place.width is not None:
        _check_width(place.width, d_in, hook_name)
    with _noted(model, reads):
        handle = _hook(place, change)
        try:
            yield
        finally:
            handle.remove()


def find_place(model: Any, hook_name: str) -> Place:
    """Find where a hook point is. Raises InputError for an unknown one, or another kind of model."""
    stream, layer = STREAM.match(hook_name), LAYER.search(hook_name)
    if isinstance(model, TransformerBridge | HookedTransformer):
        name = f"blocks.{layer[1]}.hook_resid_post" if layer and not hook_name.startswith("blocks.") else hook_name
        try:
            point = reduce(getattr, name.split("."), model)  # which also knows the bridge's aliases
        except AttributeError:
            known = [f"blocks.{i}.hook_resid_post" for i in range(model.cfg.n_layers)]
            raise no_such_hook_point(_name(model), hook_name, known + list(model.hook_dict)) from None
        return Place(point, False, int(model.cfg.d_model) if STREAM.match(name) else None)
    if not isinstance(model, PreTrainedModel):
        raise InputError(
            "the model must be loaded (il.load_model): a HookedTransformer, TransformerLens's bridge or a model of "
            f"transformers, got {type(model).__name__}"
        )
    modules, config = dict(model.named_modules()), model.config.get_text_config()
    if hook_name in modules and hook_name:
        return Place(modules[hook_name], False, int(config.hidden_size) if layer else None)
    layers = [
        one for one in modules.values() if isinstance(one, nn.ModuleList) and len(one) == config.num_hidden_layers
    ]
    if stream and layers and int(stream[1]) < len(layers[0]):
        return Place(layers[0][int(stream[1])], (stream[2] or stream[3]) in BEFORE, int(config.hidden_size))
    raise no_such_hook_point(_name(model), hook_name, [name for name in modules if name])


class _Reads:
    """Remember what the forward pass under way reads: how many tokens came before, and which are padding."""

    def __init__(self) -> None:
        self.past = 0
        self.mask: Tensor | None = None

    def note(self, arguments: dict[str, Any]) -> None:
        """Note the arguments of a forward pass."""
        cache = arguments.get("past_key_values", arguments.get("past_kv_cache"))
        self.past = _length(cache)
        mask = arguments.get("attention_mask")
        self.mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None

    def first(self, x: Float[Tensor, "batch positions d"]) -> Bool[Tensor, "batch positions"]:
        """Return True for the first token of each text."""
        first = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        if self.past == 0 and x.shape[1]:
            start = torch.zeros(len(x), dtype=torch.int64, device=x.device)
            if self.mask is not None and self.mask.shape == first.shape:
                start = (self.mask != 0).to(x.device).int().argmax(dim=1)
            first[torch.arange(len(x), device=x.device), start] = True
        return first


def _length(cache: Any) -> int:
    """Return the number of tokens in a cache of keys and values."""
    if cache is None:
        return 0
    if hasattr(cache, "get_seq_length"):
        return int(cache.get_seq_length())
    entry = cache[0]
    return int(entry.past_keys.shape[1] if hasattr(entry, "past_keys") else entry[0].shape[-2])


@contextmanager
def _noted(model: Any, reads: _Reads) -> Iterator[None]:
    """Note the arguments of every forward pass of a model."""
    if not isinstance(model, HookedTransformer):
        body = getattr(model, "original_model", model).base_model
        signature = inspect.signature(body.forward)

        def note(_: nn.Module, args: Any, options: dict[str, Any]) -> None:
            reads.note(dict(signature.bind_partial(*args, **options).arguments) | options)

        handle = body.register_forward_pre_hook(note, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()
        return
    # It calls its own forward, past the hooks of torch.
    forward, own = model.forward, "forward" in vars(model)
    signature = inspect.signature(forward)

    @wraps(forward)
    def noting(*args: Any, **options: Any) -> Any:
        reads.note(dict(signature.bind_partial(*args, **options).arguments))
        return forward(*args, **options)

    model.forward = noting
    try:
        yield
    finally:
        if own:
            model.forward = forward
        else:
            del model.forward


def _hook(place: Place, change: Callable[[Tensor], Tensor]) -> Any:
    """Register what changes the input or the output of a module."""
    if not place.at_input:

        def after(_: nn.Module, __: Any, output: Any) -> Any:
            return change(output) if isinstance(output, Tensor) else (change(output[0]), *output[1:])

        return place.module.register_forward_hook(after)

    def before(_: nn.Module, args: Any, options: dict[str, Any]) -> Any:
        if args:
            return (change(args[0]), *args[1:]), options
        return args, options | {"hidden_states": change(options["hidden_states"])}

    return place.module.register_forward_pre_hook(before, with_kwargs=True)


def _check_width(width: int, d_in: int, hook_name: str) -> None:
    if width != d_in:
        raise InputError(
            f"the dictionary has d_in {d_in} but {hook_name} of this model has {width} dimensions: it was fitted on "
            "another model"
        )


def _name(model: Any) -> str:
    return str(getattr(model.cfg, "model_name", "") if hasattr(model, "cfg") else model.config.name_or_path)
