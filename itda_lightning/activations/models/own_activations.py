"""Check that TransformerLens gives the activations of the model's own modules.

Its bridge puts components of its own around a model's modules, and computes attention itself for some architectures.
``HookedTransformer`` is another implementation, which reads the model's weights and some of its configuration. The
modules are run on two rows before that, and what they read and gave is compared with TransformerLens's hook points.
"""

import contextlib
import re
from collections import defaultdict
from copy import deepcopy
from functools import reduce
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from sae_lens.util import extract_layer_from_tlens_hook_name
from torch import Tensor, nn
from transformer_lens.model_bridge.sources.transformers import (
    determine_architecture_from_hf_config,
    get_hf_model_class_for_architecture,
)

from itda_lightning.activations.models.trial_run import n_embeddings, trial_tokens
from itda_lightning.errors import InputError

# Relative error per token that rounding explains, of attention in another order of sums: in 32 bits and in fewer.
TOLERANCE, SMALL_FLOATS = {torch.float32: 1e-3}, 0.1
INPUTS = ("input", "hidden_states", "input_ids", "query_input", "x", "inputs_embeds")


class ModuleRun(NamedTuple):
    """Hold a module's name, its input and its output on the tokens of the trial run."""

    name: str
    read: Tensor | None
    gave: Tensor | None


class OwnModel:
    """A model of `transformers` as it is before TransformerLens takes it; given to the bridge as its class.

    ``runs`` are the runs of its modules on ``tokens``; modules that run more than once or not at all have none, and
    those of layers without a hook point are not kept. They are made by ``modules``, a copy of the model that shares
    its weights, stays as it is and has torch's fused attention, if the architecture allows it.
    """

    def __init__(self, device: torch.device, hook_names: list[str]) -> None:
        self.device = device
        self.runs: dict[nn.Module, ModuleRun] = {}
        self.tokens: Tensor | None = None
        self.modules: Any = None
        self._layers = {extract_layer_from_tlens_hook_name(name) for name in hook_names}

    def from_pretrained(self, path: str, **options: Any) -> Any:
        """Load the model as the bridge does without a class, and run it."""
        architecture = determine_architecture_from_hf_config(options["config"])
        model = get_hf_model_class_for_architecture(architecture).from_pretrained(path, **options).to(self.device)
        self.record(model)
        return model

    def record(self, model: Any) -> None:
        """Run a model, where it is, on the tokens of the trial run and keep what its modules read and gave."""
        model.eval()
        self.modules = _with_shared_weights(model)
        with contextlib.suppress(ValueError):  # as for scores that are capped
            self.modules.set_attn_implementation("sdpa")
        handles = []
        longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.tokens = trial_tokens(n_embeddings(model), model.device, longest)
        for name, module in model.named_modules():
            numbers = {int(number) for number in re.findall(r"(?<=\.)\d+", name)}
            if numbers and None not in self._layers and not numbers & self._layers:
                continue

            def keep(
                _: nn.Module, args: Any, options: dict[str, Any], output: Any, name: str = name, module: Any = module
            ) -> None:
                read = input_of(args, options)
                again = ModuleRun(name, None, None)
                self.runs[module] = again if module in self.runs else ModuleRun(name, _first(read), _first(output))

            handles.append(self.modules.get_submodule(name).register_forward_hook(keep, with_kwargs=True))
        try:
            with torch.no_grad():
                self.modules(self.tokens, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()


def input_of(args: Any, options: dict[str, Any]) -> Any:
    """Return what a module reads of its arguments: a tensor by name, else the positional ones."""
    return next((options[key] for key in INPUTS if isinstance(options.get(key), Tensor)), args)


def _with_shared_weights(model: nn.Module) -> Any:
    """Copy a model but for its weights and its innermost modules, which may hold packed weights."""
    innermost = [module for module in model.modules() if not any(module.children())]
    return deepcopy(model, {id(part): part for part in (*innermost, *model.parameters())})


def _first(values: Any) -> Tensor | None:
    """Return a copy of a tensor, or of the first of several; None for anything else."""
    if isinstance(values, tuple | list) and values:
        values = values[0]
    return values.clone() if isinstance(values, Tensor) else None


class Comparison(NamedTuple):
    """A hook point to compare with what a module of the model read or gave itself."""

    hook_name: str
    module: str
    own: Tensor
    at_input: bool = False


def comparable(bridge: Any, own: OwnModel, hook_name: str) -> Comparison | None:
    """Find what a hook point is compared by: itself if a module reads or gives it, else the output around it.

    What a bridge computes within a component (attention patterns, heads before they are joined) is no module's, but the
    component's output depends on it. None for a hook point outside of all modules.
    """
    runs: dict[int, tuple[str, Tensor, bool]] = {}
    for component in bridge.modules():
        run = own.runs.get(component._modules.get("_original_component"))
        for point, values in (("hook_in", run and run.read), ("hook_out", run and run.gave)):
            if run is not None and values is not None and hasattr(component, point):
                runs[id(getattr(component, point))] = run.name, values, point == "hook_in"
    try:
        point = reduce(getattr, hook_name.split("."), bridge)  # which also knows the usual names
    except AttributeError:
        return None
    if id(point) in runs:
        return Comparison(hook_name, *runs[id(point)])
    outputs = {
        name.removesuffix(".hook_out"): runs[id(point)]
        for name, point in bridge.hook_dict.items()
        if name.endswith(".hook_out") and id(point) in runs
    }
    component = hook_name.rpartition(".")[0]
    while component and component not in outputs:
        component = component.rpartition(".")[0]
    return Comparison(f"{component}.hook_out", *outputs[component]) if component else None


def comparable_layer(model: Any, own: OwnModel, hook_name: str) -> Comparison | None:
    """Find what a hook point of a ``HookedTransformer`` is compared by: the residual stream at it, or after its layer.

    None for a model whose layers are no list of modules.
    """
    lists: dict[str, dict[int, ModuleRun]] = defaultdict(dict)
    for run in own.runs.values():
        if found := re.fullmatch(r"([^\d]+)\.(\d+)", run.name):
            lists[found[1]][int(found[2])] = run
    if not lists:
        return None
    layers, layer = lists[min(lists, key=len)], extract_layer_from_tlens_hook_name(hook_name)
    before = hook_name.endswith(".hook_resid_pre")
    if layer is None:  # of the embedding, or of what comes after the last layer
        before = "embed" in hook_name and "unembed" not in hook_name
        layer = 0 if before else model.cfg.n_layers - 1
    if layer not in layers:
        return None
    module, read, gave = layers[layer]
    values, place = (read, "pre") if before else (gave, "post")
    return None if values is None else Comparison(f"blocks.{layer}.hook_resid_{place}", module, values)


def check_agreement(
    comparisons: dict[str, Comparison], cache: Any, tokens: Int[Tensor, "rows tokens"], model: str, loader: str
) -> None:
    """Raise InputError if an activation differs from the model's own; ``comparisons`` by the names of hook points."""
    who = "TransformerLens's bridge" if loader == "bridge" else f"loader={loader}"
    for hook_name, (compared, module, own, _) in comparisons.items():
        activation = cache[compared]
        if activation.shape[:2] != own.shape[:2] or own.shape[:2] != tokens.shape or activation.numel() != own.numel():
            continue  # heads in another order
        there = own.to(activation.device)
        found, expected = (values.reshape(tokens.numel(), -1).double() for values in (activation, there))
        finite = expected.isfinite().all(1)  # a model may overflow, which is said where activations are read
        norms = torch.linalg.vector_norm(expected, dim=1).clamp_min(torch.finfo(torch.float64).tiny)
        error = float((torch.linalg.vector_norm(found - expected, dim=1) / norms)[finite].mean()) if finite.any() else 0
        if not error <= TOLERANCE.get(own.dtype, SMALL_FLOATS):
            at = "" if compared == hook_name else f" (at {compared}, which depends on it)"
            raise InputError(
                f"{who} does not give the activations of {model!r} at {hook_name!r}: they differ "
                f"from those of the model's own module {module} by {error:.2g} of their norm{at}; set "
                f"loader=huggingface, whose hook points are module names, e.g. {module}"
            )
