"""Dictionaries in SAELens's files, ``cfg.json`` and ``sae_weights.safetensors``."""

import json
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from sae_lens import SAE
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME
from safetensors import SafetensorError

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.machine.atomic_files import new_directory
from itda_lightning.saelens.convert import Architecture, from_sae, to_sae

DtypeName = Literal["float32", "bfloat16", "float16"]


def save_export(
    dictionary: Dictionary, path: str | Path, architecture: Architecture = "itda", dtype: DtypeName = "float32"
) -> SAE[Any]:
    """Write a dictionary to a new directory that ``SAE.load_from_disk`` reads, in one step; returns what was written.

    Raises:
        InputError: ``path`` exists or cannot be written, a bias that overflows ``dtype``, or as ``to_sae``.
    """
    sae = to_sae(dictionary, architecture).to(dtype=getattr(torch, dtype))
    if not torch.isfinite(sae.b_dec).all():
        raise InputError(f"the bias of the dictionary overflows {dtype}: use float32 or bfloat16")
    with new_directory(Path(path)) as directory:
        sae.save_model(directory)
    return sae


def load_export(path: str | Path, device: str | torch.device = "cpu") -> Dictionary:
    """Read a dictionary from a directory of either architecture.

    Raises:
        InputError: files that are missing, truncated or of another architecture, or as ``from_sae``.
    """
    path = Path(path)
    try:
        architecture = json.loads((path / SAE_CFG_FILENAME).read_text(encoding="utf-8"))["architecture"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path / SAE_CFG_FILENAME} is not the configuration of a SAELens SAE ({type(error).__name__}: {error}): "
            "export the dictionary again"
        ) from error
    if architecture not in get_args(Architecture):
        raise InputError(
            f"{path} holds an SAE of architecture {architecture!r}, which is not a dictionary: give an export of "
            f"architecture {' or '.join(get_args(Architecture))}"
        )
    try:
        sae = SAE.load_from_disk(path, device=str(device))
    except InputError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"{path} does not hold a whole SAE ({SAE_CFG_FILENAME} and {SAE_WEIGHTS_FILENAME}): "
            f"{type(error).__name__}: {error}; export the dictionary again"
        ) from error
    return from_sae(sae)
