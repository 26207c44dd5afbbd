"""Checkpoints that were quantised with bitsandbytes: weights stay packed (8 or 4 bits) on disk and in memory.

`transformers` puts bitsandbytes' modules into a model and reads their weights, bitsandbytes multiplies by them; here is only
what can be had of them and what it takes. bitsandbytes is an extra, so whatever imports it does so where it is used.
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
# Bytes that a product takes at most for each weight of a packed matrix, as measured: of 8 bits where all inputs have outliers;
# of 4 bits on CPUs with AVX512-BF16, where weights are put in another order before the first product.
WORKING_8_BITS, WORKING_4_BITS_ON_CPU = 10, 7
# What the 4-bit kernel for those CPUs takes: rows, and columns of one block of weights.
KERNEL_ROWS, KERNEL_COLUMNS = 32, 64


def quantizer_of(config: Any, directory: Path | str, dtype: torch.dtype) -> HfQuantizer | None:
    """What `transformers` reads a checkpoint's packed weights with; None for one that is not quantised.

    Raises:
        InputError: a method other than bitsandbytes, or what ``check_bitsandbytes`` refuses.
    """
    settings = _settings(config)
    if settings is None:
        return None
    if not _is_by_bitsandbytes(settings):
        raise InputError(
            f"the model in {directory} is quantised with {settings['quant_method']}, of which nothing is known here: give "
            f"one that is quantised with {METHOD}, or dequantise it to bfloat16 first"
        )
    return check_bitsandbytes(config, directory, dtype)


def check_bitsandbytes(config: Any, directory: Path | str, dtype: torch.dtype) -> HfQuantizer | None:
    """As ``quantizer_of``, but for checkpoints by other methods, too, which are left to `transformers`: None.

    Raises:
        InputError: bitsandbytes is missing or knows none of the devices, or a computation in another dtype than that of the
            weights that are not packed.
    """
    settings = _settings(config)
    if settings is None or not _is_by_bitsandbytes(settings):
        return None
    try:
        quantizer = AutoHfQuantizer.from_config(settings, pre_quantized=True)
        quantizer.validate_environment()
    except (ImportError, RuntimeError) as error:
        raise InputError(
            f"the model in {directory} is quantised with {METHOD}, which is not to be had here ({error}): pip install "
            "'itda-lightning[quantised]'"
        ) from error
    # `transformers` leaves some of these weights in the dtype that they are stored in, whatever it is asked for.
    stored = getattr(config, "dtype", None)
    if stored is not None and stored != dtype:
        wanted, given = (str(each).removeprefix("torch.") for each in (stored, dtype))
        raise InputError(
            f"the model in {directory} is quantised with {METHOD} and computes in {wanted}, the dtype of its other weights: "
            f"set model_dtype={wanted}, got {given}"
        )
    return quantizer


def replace_modules(model: Any, quantizer: HfQuantizer, device: torch.device) -> None:
    """Put the modules that hold packed weights into a model without weights.

    Raises:
        InputError: matrices of shapes that bitsandbytes cannot multiply by on this device.
    """
    quantizer.preprocess_model(model=model, dtype=model.dtype, device_map={"": device})
    model.hf_quantizer = quantizer
    for name, weight in packed(model, quantizer):
        # Plain ones until weights are there: bitsandbytes' own parameters cannot be copied on the meta device.
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
                f"{METHOD} multiplies by 4-bit weights on this CPU (AVX512-BF16) only where outputs are a multiple of "
                f"{KERNEL_ROWS} and inputs of {KERNEL_COLUMNS}, but {name} has {module.out_features} and "
                f"{module.in_features}: run it on a GPU, or take the model in 8 bits"
            )


def working_bytes(model: nn.Module, quantizer: HfQuantizer, device: torch.device, dtype: torch.dtype) -> int:
    """Bytes that a product by the largest packed matrix of a model without weights takes beside what is packed."""
    largest = max((weight.numel() for _, weight in packed(model, quantizer)), default=0)
    if quantizer.quantized_element_size == 1:
        return WORKING_8_BITS * largest
    return largest * (WORKING_4_BITS_ON_CPU if device.type == "cpu" else dtype.itemsize)


def packed(model: Any, quantizer: HfQuantizer) -> list[tuple[str, nn.Parameter]]:
    """The weights that are packed in the files, with their names; in a model without weights of the shape unpacked."""
    return [entry for entry in model.named_parameters() if quantizer.param_needs_quantization(model, entry[0])]


def wrongly_packed(model: Any, loaded: nn.Module, quantizer: HfQuantizer) -> list[str]:
    """What does not fit of packed weights: as the model without weights asks for them, and as they were loaded."""
    bytes_each: Any = quantizer.quantized_element_size
    sizes = {
        name: (loaded.get_parameter(name).nbytes, ceil(weight.numel() * bytes_each))
        for name, weight in packed(model, quantizer)
    }
    return [f"{name} has {has:,} bytes, not {wants:,}" for name, (has, wants) in sizes.items() if has != wants]


def statistics(quantizer: HfQuantizer | None) -> tuple[str, ...]:
    """How the names of tensors end that belong to packed weights (scales, code books)."""
    names = quantizer.serialized_names if quantizer is not None else {}
    return tuple(f".{name}" for weight, stored in names.items() for name in stored if name != weight)


def _settings(config: Any) -> dict[str, Any] | None:
    found = getattr(config, "quantization_config", None)
    return found if found is not None else getattr(config.get_text_config(), "quantization_config", None)


def _is_by_bitsandbytes(settings: dict[str, Any]) -> bool:
    # Files of older versions do not name the method.
    return settings.get("quant_method", METHOD) == METHOD
