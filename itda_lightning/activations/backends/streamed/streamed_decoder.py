"""A causal decoder of `transformers` whose weights stay on disk: a skeleton that gets one layer's weights at a time.

The model's own modules compute everything. Its forward runs once with layers that only record their arguments (masks,
positions, rotary embeddings, whatever the architecture passes), and each layer is then called with these.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    convert_and_load_state_dict_in_model,
    rename_source_key,
)
from transformers.modeling_utils import LoadStateDictConfig
from transformers.quantizers.base import HfQuantizer
from transformers.utils import logging as transformers_logging

from itda_lightning.activations.backends.streamed.weight_files import WeightFiles
from itda_lightning.activations.models.model_name import LanguageModelName
from itda_lightning.activations.models.quantised import statistics, working_bytes, wrongly_packed
from itda_lightning.activations.models.skeleton import ResidualStream, directory_of, make_skeleton
from itda_lightning.errors import InputError

# Arguments of a layer besides the hidden states: positional and keyword ones.
Call = tuple[tuple[Any, ...], dict[str, Any]]


class _LastLayerReached(Exception):  # noqa: N818  it is no error
    pass


class _InMemory:
    """Stands for a slice of a file in `transformers`: gives its tensor once and drops it."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensors = [tensor]
        self._floating = tensor.is_floating_point()

    def is_floating_point(self) -> bool:
        return self._floating

    def __getitem__(self, index: Any) -> Tensor:
        return self._tensors.pop()[index]


class StreamedDecoder(ResidualStream):
    """The skeleton of a causal decoder, its layers and the names of their weights, which must fit.

    Attributes:
        layer_weights: for every layer, the names of its weights in the files.
        outer_weights: the names of weights that run before the layers (embeddings).
        layer_bytes, outer_bytes: size of the largest layer and of ``outer_weights``, as computed with or packed.
        working_bytes: memory that a layer of packed weights needs besides them; 0 for other weights.
        parameters: number of parameters of every layer, packed or not.
    """

    def __init__(self, name: LanguageModelName) -> None:
        self.device, self.directory = name.torch_device(), directory_of(name)
        self.model = make_skeleton(self.directory, name)
        self.files = WeightFiles(self.directory)
        super().__init__(self.model, name)
        self._quantizer: HfQuantizer | None = getattr(self.model, "hf_quantizer", None)
        self._decoder: nn.Module = self.model.get_decoder()
        self.layers: nn.ModuleList = self.model.get_submodule(self.layers_path)
        self._loading = LoadStateDictConfig(
            dtype=name.torch_dtype(),
            dtype_plan=self.model._get_dtype_plan(name.torch_dtype()),
            device_map={"": self.device},
            hf_quantizer=self._quantizer,
            weight_mapping=cast(Any, get_model_conversion_mapping(self.model, hf_quantizer=self._quantizer)),
        )
        path = next(path for path, module in self.model.named_modules() if module is self._decoder)
        inside, in_layers = f"{path}." if path else "", f"{self.layers_path}."
        outer = {
            key: value.nbytes
            for key, value in self.model.state_dict().items()
            if key.startswith(inside) and not key.startswith(in_layers)
        }
        self.layer_weights, self.outer_weights = self._assign(set(outer))
        self._check_weights(set(outer))
        self.parameters = [sum(p.numel() for p in layer.parameters()) for layer in self.layers]
        self.layer_bytes = max(sum(p.nbytes for p in layer.parameters()) for layer in self.layers)
        self.outer_bytes = sum(outer.values())
        self.working_bytes = 0
        if self._quantizer is not None:  # weights are not converted
            self.layer_bytes = max(map(self.files.size_bytes, self.layer_weights))
            self.outer_bytes = self.files.size_bytes(self.outer_weights)
            self.working_bytes = working_bytes(self.model, self._quantizer, self.device, name.torch_dtype())
            if self.device.type == "cpu":  # weights may be reordered there
                self.working_bytes += self.layer_bytes
        self._calls: dict[tuple[int, ...], list[Call]] = {}

    @contextmanager
    def outer(self) -> Iterator[None]:
        """Load the weights that run before the layers, within this block."""
        self._load(self.files.read(self.outer_weights))
        try:
            yield
        finally:
            within_layers = set(self.layers.modules())
            for module in self._decoder.modules():
                if module not in within_layers:
                    _release(module)

    @contextmanager
    def layer(self, index: int, weights: dict[str, Tensor]) -> Iterator[None]:
        """Give these weights to layer ``index`` within this block; they are moved out of ``weights``."""
        empty = self.layers[index]
        # Modules of packed weights hold more than parameters, so a copy is filled and dropped afterwards.
        self.layers[index] = deepcopy(empty)
        try:
            self._load(weights)
            left = [name for name, value in self.layers[index].named_parameters() if value.device.type == "meta"]
            assert not left, left
            yield
        finally:
            for module in self.layers[index].modules():
                _release(module)  # packed weights and their modules refer to each other
            self.layers[index] = empty

    def lies_in(self, index: int, memory: Tensor) -> bool:
        """Return True if the weights of layer ``index``, within ``layer``, lie in the memory that they were read into.

        If only some do, as others were converted, copy them to free it, unless they are packed beside statistics.
        """
        parameters = list(self.layers[index].parameters())
        start, stop = memory.data_ptr(), memory.data_ptr() + memory.numel()
        inside = [parameter for parameter in parameters if start <= parameter.data_ptr() < stop]
        if len(inside) == len(parameters) or (inside and self._quantizer is not None):
            return True
        for parameter in inside:
            parameter.data = parameter.data.clone()
        return False

    @torch.no_grad()
    def prepare(self, tokens: Int[Tensor, "rows context"]) -> None:
        """Record, within ``outer``, the arguments of layers on batches of this shape.

        Raises InputError for layers that do not follow one another, or whose arguments depend on the tokens.
        """
        if tuple(tokens.shape) in self._calls:
            return
        calls = self._record(tokens)[1]
        if not _same(calls, self._record((tokens + 1) % 2)[1]):
            raise self._unknown("its layers get arguments besides hidden states that depend on the tokens")
        self._calls[tuple(tokens.shape)] = calls

    @torch.no_grad()
    def embed(self, tokens: Int[Tensor, "rows context"]) -> Float[Tensor, "rows context d"]:
        """Return the input of layer 0, within ``outer``."""
        return self._record(tokens)[0].cpu()

    @torch.no_grad()
    def forward_layer(self, index: int, hidden: Float[Tensor, "rows context d"]) -> Float[Tensor, "rows context d"]:
        """Run a layer on a batch, within ``layer``."""
        arguments, keywords = self._calls[tuple(hidden.shape[:2])][index]
        # A copy, since products may depend on the alignment of their inputs.
        output = self.layers[index](hidden.to(self.device, copy=True), *arguments, **keywords)
        return (output if isinstance(output, Tensor) else output[0]).cpu()

    def _record(self, tokens: Tensor) -> tuple[Tensor, list[Call]]:
        """Return the input of layer 0 and the arguments of every layer."""
        for in_tuple in (False, True):  # some architectures expect tuples from their layers
            calls = self._run_recorders(tokens.to(self.device), in_tuple)
            entered = [arguments[0] if arguments else None for arguments, _ in calls]
            if len(calls) == self.n_layers and entered[0] is not None and all(each is entered[0] for each in entered):
                return entered[0], [(arguments[1:], keywords) for arguments, keywords in calls]
        raise self._unknown("its layers are not called one after another on hidden states alone")

    def _run_recorders(self, tokens: Tensor, in_tuple: bool) -> list[Call]:
        """Run the model's own forward up to its last layer, with layers that return their input."""
        calls: list[Call] = []

        def forward(*arguments: Any, **keywords: Any) -> Any:
            calls.append((arguments, keywords))
            if len(calls) == self.n_layers or not arguments or not isinstance(arguments[0], Tensor):
                raise _LastLayerReached
            return (arguments[0],) if in_tuple else arguments[0]

        for layer in self.layers:
            layer.forward = forward
        try:
            self._decoder(input_ids=tokens, use_cache=False)
        except _LastLayerReached:
            pass
        finally:
            for layer in self.layers:
                del layer.forward
        return calls

    def _unknown(self, reason: str) -> InputError:
        return InputError(
            f"the architecture {type(self.model).__name__} of {self.name.name!r} cannot be streamed: {reason}; set "
            "backend=in_memory"
        )

    def _assign(self, outside: set[str]) -> tuple[list[list[str]], list[str]]:
        """Return the names in the files of every layer's weights, and of those that run before the layers."""
        mapping = self._loading.weight_mapping or []
        renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        state = self.model.state_dict()
        by_layer: dict[int, list[str]] = defaultdict(list)
        outer = []
        pattern = re.compile(rf"{re.escape(self.layers_path)}\.(\d+)\.")
        for key in self.files.tensors:
            target, _ = rename_source_key(key, renamings, converters, self.model.base_model_prefix, state)
            if match := pattern.match(target):
                by_layer[int(match[1])].append(key)
            elif target in outside:
                outer.append(key)
        return [by_layer[layer] for layer in range(self.n_layers)], outer

    def _check_weights(self, outside: set[str]) -> None:
        """Load every tensor as a shape without content, to find those that do not fit."""
        shapes = {
            name: torch.empty(stored.shape, dtype=stored.dtype, device="meta")
            for name, stored in self.files.tensors.items()
            if not name.endswith(statistics(self._quantizer))
        }
        on_disk = LoadStateDictConfig(**{**vars(self._loading), "device_map": {"": torch.device("meta")}})
        loaded = deepcopy(self.model)
        report = _convert(loaded, shapes, on_disk)
        needed = outside | {f"{self.layers_path}.{name}" for name in self.layers.state_dict()}
        wrong = [f"{name} is missing" for name in sorted(needed & report.missing_keys)]
        wrong += [f"{name} has the shape {tuple(a)}, not {tuple(b)}" for name, a, b in report.mismatched_keys]
        wrong += list(report.conversion_errors)
        if self._quantizer is not None:
            wrong += wrongly_packed(self.model, loaded, self._quantizer)
        if wrong:
            raise InputError(
                f"the weights in {self.directory} are not those of {type(self.model).__name__}: {'; '.join(wrong[:3])}"
                f"{' ...' if len(wrong) > 3 else ''}; check config.json and that all files are of one model"
            )

    def _load(self, weights: dict[str, Tensor]) -> None:
        _convert(self.model, {name: _InMemory(weights.pop(name)) for name in list(weights)}, self._loading)


def _release(module: nn.Module) -> None:
    for name, parameter in module.named_parameters(recurse=False):
        empty = torch.empty_like(parameter, device="meta")
        module._parameters[name] = nn.Parameter(empty, requires_grad=False)


def _same(one: Any, other: Any) -> bool:
    """Return True if arguments are equal, tensors by their values."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.shape == other.shape and bool((one == other).all())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other)


def _convert(model: Any, weights: dict[str, Any], loading: LoadStateDictConfig) -> Any:
    """Load weights into a model, without the progress bar that `transformers` would show for every layer."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        return convert_and_load_state_dict_in_model(model, weights, loading)[0]
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
