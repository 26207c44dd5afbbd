"""Support checkpoints quantised with bitsandbytes, whose weights stay packed (8 or 4 bits) on disk and in memory.

`transformers` puts bitsandbytes' modules into a model and reads their weights, and bitsandbytes multiplies by them.
This file checks what they support and estimates the memory. bitsandbytes is an extra, so it is imported only on use.
"""

from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.quantizers.auto import AutoHfQuantizer
from transformers.quantizers.base import HfQuantizer

from itda_lightning.errors import InputError

METHOD = "bitsandbytes"
# Bytes per weight of a packed matrix that a product needs at most, as measured: with 8 bits if all inputs have
# outliers; with 4 bits on CPUs with AVX512-BF16, where weights are reordered before the first product.
WORKING_8_BITS, WORKING_4_BITS_ON_CPU = 10, 7
# The 4-bit kernel for those CPUs takes multiples of these numbers of rows and columns.
KERNEL_ROWS, KERNEL_COLUMNS = 32, 64


def quantizer_of(
    config: Any, directory: Path | str, dtype: torch.dtype, refuse_others: bool = False
) -> HfQuantizer | None:
    """Return what reads the packed weights of a checkpoint quantised with bitsandbytes; None for any other.

    Raises InputError if bitsandbytes cannot be used here, for another ``dtype`` than that of the weights that are not
    packed, and with ``refuse_others`` for other methods, which are else left to `transformers`.
    """
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        settings = getattr(config.get_text_config(), "quantization_config", None)
    if settings is None:
        return None
    method = settings.get("quant_method", METHOD)  # which older files do not name
    if method != METHOD:
        if not refuse_others:
            return None
        raise InputError(
            f"the model in {directory} is quantised with {method}, which is not supported: give one quantised with "
            f"{METHOD}, or dequantise it to bfloat16 first"
        )
    try:
        quantizer = AutoHfQuantizer.from_config(settings, pre_quantized=True)
        quantizer.validate_environment()
    except (ImportError, RuntimeError) as error:
        raise InputError(
            f"the model in {directory} is quantised with {METHOD}, which cannot be used here ({error}): pip install "
            "'itda-lightning[quantised]'"
        ) from error
    # `transformers` leaves some of these weights in their stored dtype, whatever the requested one.
    stored = getattr(config, "dtype", None)
    if stored is not None and stored != dtype:
        needed, given = (str(each).removeprefix("torch.") for each in (stored, dtype))
        raise InputError(
            f"the model in {directory} is quantised with {METHOD} and computes in {needed}, the dtype of its other "
            f"weights: set model_dtype={needed}, got {given}"
        )
    return quantizer


def replace_modules(model: Any, quantizer: HfQuantizer, device: torch.device) -> None:
    """Replace modules of a model without weights by those that hold packed weights, if bitsandbytes supports these."""
    quantizer.preprocess_model(model=model, dtype=model.dtype, device_map={"": device})
    model.hf_quantizer = quantizer
    for name, weight in packed(model, quantizer):
        # Plain parameters until weights are loaded: bitsandbytes' own cannot be copied on the meta device.
        empty = torch.empty(weight.shape, dtype=weight.dtype, device="meta")
        model.get_submodule(name.rpartition(".")[0]).weight = nn.Parameter(empty, requires_grad=False)
    from bitsandbytes.functional import has_avx512bf16
    from bitsandbytes.nn.modules import Linear4bit

    if device.type != "cpu" or not has_avx512bf16():
        return
    for name, module in model.named_modules():
        if isinstance(module, Linear4bit) and (
            module.out_features % KERNEL_ROWS or module.in_features % KERNEL_COLUMNS
        ):
            raise InputError(
                f"{METHOD} multiplies by 4-bit weights on this CPU (AVX512-BF16) only if outputs are a multiple of "
                f"{KERNEL_ROWS} and inputs of {KERNEL_COLUMNS}, but {name} has {module.out_features} and "
                f"{module.in_features}: run it on a GPU, or take the model in 8 bits"
            )


def working_bytes(model: nn.Module, quantizer: HfQuantizer, device: torch.device, dtype: torch.dtype) -> int:
    """Return the bytes that a product by a model's largest packed matrix needs beside the packed weights."""
    largest = max((weight.numel() for _, weight in packed(model, quantizer)), default=0)
    if quantizer.quantized_element_size == 1:
        return WORKING_8_BITS * largest
    return largest * (WORKING_4_BITS_ON_CPU if device.type == "cpu" else dtype.itemsize)


def packed(model: Any, quantizer: HfQuantizer) -> list[tuple[str, nn.Parameter]]:
    """List the weights that are packed in the files, by name; in a model without weights they have unpacked shapes."""
    return [entry for entry in model.named_parameters() if quantizer.param_needs_quantization(model, entry[0])]


def wrongly_packed(model: Any, loaded: nn.Module, quantizer: HfQuantizer) -> list[str]:
    """List the packed weights whose size is not the one that the model needs, one sentence each."""
    bytes_each: Any = quantizer.quantized_element_size
    sizes = {
        name: (loaded.get_parameter(name).nbytes, ceil(weight.numel() * bytes_each))
        for name, weight in packed(model, quantizer)
    }
    return [f"{name} has {has:,} bytes, not {wants:,}" for name, (has, wants) in sizes.items() if has != wants]


def statistics(quantizer: HfQuantizer | None) -> tuple[str, ...]:
    """Return the endings of the names of tensors that belong to packed weights (scales, code books)."""
    names = quantizer.serialized_names if quantizer is not None else {}
    return tuple(f".{name}" for weight, stored in names.items() for name in stored if name != weight)
