"""The files of a saved dictionary: its tensors as safetensors, all else as JSON, in a directory of their own."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from itda_lightning.errors import InputError
from itda_lightning.machine.atomic_files import new_directory, write_json

FORMAT = "itda_lightning.dictionary"
FORMAT_VERSION = 2
# What files without refined atoms are written as: a reader of this version only would take refined atoms for grown ones.
UNREFINED_VERSION = 1
TENSORS_FILE = "dictionary.safetensors"
INDEX_FILE = "dictionary.json"
IN_INDEX = {"k", "pursuit", "nonnegative", "dataset", "prompts", "metadata"}
IN_TENSORS = {"atoms", "bias", "sources"}


def write_dictionary(path: Path, index: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a new directory ``path``, in one step.

    Args:
        index: JSON values under the names of ``IN_INDEX``.
        tensors: those of ``IN_TENSORS``, and ``grown`` and ``cosines`` of refined atoms.

    Raises:
        InputError: ``path`` exists, is not writable, or the disk is full.
    """
    version = FORMAT_VERSION if "grown" in tensors else UNREFINED_VERSION
    with new_directory(path) as directory:
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, directory / TENSORS_FILE)
        write_json(directory / INDEX_FILE, {"format": FORMAT, "version": version, **index})


def read_dictionary(
    path: Path, device: str | torch.device = "cpu", atoms: Callable[[int], slice] | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The index and the tensors that ``write_dictionary`` wrote.

    Args:
        device: where the tensors go.
        atoms: which of n atoms to read; None for all.

    Raises:
        InputError: files that are missing, truncated, of another format or of a newer version.
    """
    try:
        index = json.loads((path / INDEX_FILE).read_text(encoding="utf-8"))
        if atoms is None:
            tensors = load_file(path / TENSORS_FILE, device=str(device))
        else:
            with safe_open(path / TENSORS_FILE, framework="pt", device=str(device)) as file:
                rows = atoms(file.get_slice("atoms").get_shape()[0])
                tensors = {name: file.get_tensor(name) for name in IN_TENSORS - {"atoms"}}
                tensors["atoms"] = file.get_slice("atoms")[rows]
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(
            f"{path} does not hold a whole dictionary ({INDEX_FILE} and {TENSORS_FILE}): {error}; save it again"
        ) from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise InputError(f"{path} was not written by Dictionary.save: {INDEX_FILE} has no such format field")
    version = index.get("version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise InputError(f"{path} has format version {version}, this package reads up to {FORMAT_VERSION}: upgrade it")
    missing = sorted((IN_INDEX - set(index)) | ({"version"} - set(index)) | (IN_TENSORS - set(tensors)))
    if missing:
        raise InputError(f"{path} does not hold a whole dictionary: {missing} are missing; save it again")
    return index, tensors
