"""Read and write the files of a saved dictionary: tensors as safetensors, all else as JSON, in one directory."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from itda_lightning.dictionary.named_atoms import Labels
from itda_lightning.dictionary.sources import Prompt, Sources
from itda_lightning.errors import InputError
from itda_lightning.machine.atomic_files import new_directory, write_json
from itda_lightning.machine.digests import DIGEST, DamagedError, Signature, check_signed, reason, warn_unsigned
from itda_lightning.machine.paths import without_home
from itda_lightning.machine.schema import check_known, check_schema
from itda_lightning.pursuit import PursuitName

FORMAT = "itda_lightning.dictionary"
FORMAT_VERSION = 4  # of joint dictionaries: a package that reads only the next one knows one hook point
PRUNED_VERSION = 3
REFINED_VERSION = 2  # a package that reads only this would not prune, and lose labels
UNREFINED_VERSION = 1  # a package that reads only this would take refined atoms for the activations of their sources
TENSORS_FILE = "dictionary.safetensors"
INDEX_FILE = "dictionary.json"
IN_INDEX = ("k", "pursuit", "nonnegative", "dataset", "prompts", "metadata")
IN_TENSORS = {"atoms", "bias", "sources"}
OPTIONAL_TENSORS = {"grown", "labels", "label_cosines"}
REMEDY = "save it again"

Prompts = list[tuple[str, str, str]]


class Index(TypedDict):
    """Types of what stands in ``INDEX_FILE``."""

    format: str
    version: int
    k: int
    pursuit: PursuitName
    nonnegative: bool
    dataset: str | None
    prompts: Prompts | None
    metadata: dict[str, Any]
    least_gain: NotRequired[float]
    label_prompts: NotRequired[Prompts | None]


class KnownMetadata(TypedDict, total=False):
    """Types of the metadata that commands read; others may be anything."""

    hook_name: str | None
    model_name: str | None
    model_class_name: str | None
    dataset_path: str | None
    context_size: int | None
    prepend_bos: bool | None
    exclude_special_tokens: bool | None
    data: dict[str, Any] | None
    fit: dict[str, Any] | None
    threshold: float | None
    typical_energy: float | None
    activations_seen: int
    activations_skipped: int
    growth: list[tuple[int, int]]
    validation: list[dict[str, float | int | str | None]]
    codes: dict[str, Any]
    refinement: dict[str, Any]
    transfer: dict[str, Any]
    typical_coefficients: list[float]
    typical_of: str
    sites: list[tuple[str, int, float]]
    view_of: str
    site_shares: dict[str, list[float]]


def write_dictionary(path: Path, index: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a new directory, in one step; raises like ``new_directory``.

    Args:
        index: JSON values under the names in ``IN_INDEX``, and ``least_gain``; ``label_prompts`` of relabelled atoms.
        tensors: those named in ``IN_TENSORS``, and ``grown`` and ``cosines`` of refined atoms, ``labels`` and
            ``label_cosines`` of relabelled ones.
    """
    check_metadata(index["metadata"], "cannot save metadata.", "commands read it: name it otherwise")
    version = REFINED_VERSION if "grown" in tensors else UNREFINED_VERSION
    version = PRUNED_VERSION if index["least_gain"] > 0 or "labels" in tensors else version
    version = FORMAT_VERSION if index["metadata"].get("sites") else version
    with new_directory(path) as directory:
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, directory / TENSORS_FILE)
        content = {"format": FORMAT, "version": version, **index, "metadata": without_home(index["metadata"])}
        write_json(directory / INDEX_FILE, content, [directory / TENSORS_FILE])


def check_metadata(metadata: Mapping[str, Any], what: str, remedy: str) -> None:
    """Raise InputError for metadata of a known name and another type."""
    check_known(metadata, get_type_hints(KnownMetadata), what, remedy)


def read_dictionary(
    path: Path, device: str | torch.device = "cpu", atoms: Callable[[int], slice] | None = None
) -> dict[str, Any]:
    """Read what ``write_dictionary`` wrote, as arguments of ``Dictionary``; one line of warning without a digest.

    Args:
        device: where the tensors go; sources stay on the CPU.
        atoms: called with the number of atoms, returns which to read, without labels and grown ones; None for all.

    Raises:
        InputError: files that are missing, damaged, of another format or of a newer version.
    """
    saved, signature = checked_dictionary(path, device, atoms)
    if signature == "none":
        warn_unsigned(path)
    return saved


def checked_dictionary(
    path: Path, device: str | torch.device = "cpu", atoms: Callable[[int], slice] | None = None
) -> tuple[dict[str, Any], Signature]:
    """Read a dictionary like ``read_dictionary``, and tell whether it has a digest, which covers all of its files."""
    try:
        raw = (path / INDEX_FILE).read_bytes()
        index = json.loads(raw, parse_constant=_refuse)
        (path / TENSORS_FILE).open("rb").close()  # safetensors calls a file missing that this user may not read
        with safe_open(path / TENSORS_FILE, framework="pt", device=str(device)) as file:
            names = set(file.keys())
            whole = IN_TENSORS | OPTIONAL_TENSORS if atoms is None else IN_TENSORS - {"atoms"}
            tensors = {name: file.get_tensor(name) for name in names & whole}
            if atoms is not None and "atoms" in names:
                rows = file.get_slice("atoms")
                tensors["atoms"] = rows[atoms(rows.get_shape()[0])]
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise InputError(
            f"{path} does not hold a whole dictionary ({INDEX_FILE} and {TENSORS_FILE}): {reason(error)}; {REMEDY}"
        ) from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise InputError(f"{path} was not written by Dictionary.save: {INDEX_FILE} has no such format field")
    version = index.get("version")
    if isinstance(version, int) and version < UNREFINED_VERSION:
        raise InputError(f"{path} does not hold a valid dictionary: there is no format version {version}; {REMEDY}")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise InputError(f"{path} has format version {version}, this package reads up to {FORMAT_VERSION}: upgrade it")
    missing = sorted(({"version", *IN_INDEX} - set(index)) | (IN_TENSORS - set(tensors)))
    if missing:
        raise InputError(f"{path} does not hold a whole dictionary: {missing} are missing; {REMEDY}")
    index.pop(DIGEST, None)
    invalid = f"{path} does not hold a valid dictionary"
    check_schema(index, Index, invalid, REMEDY)
    check_metadata(index["metadata"], f"{invalid}: metadata.", REMEDY)
    try:
        signature = check_signed(raw, [path / TENSORS_FILE])
    except DamagedError as error:
        raise InputError(f"{invalid}: {error}, so its files were damaged or mixed up; {REMEDY}") from error
    try:
        prompts, label_prompts = (
            None if index.get(name) is None else tuple(Prompt(*prompt) for prompt in index[name])
            for name in ("prompts", "label_prompts")
        )
        sources = None if index["dataset"] is None else Sources(tensors["sources"].cpu(), index["dataset"], prompts)
        labels = None
        if {"labels", "label_cosines"} <= set(tensors):
            labels = Labels(tensors["labels"], tensors["label_cosines"], label_prompts)
    except (TypeError, ValueError) as error:
        raise InputError(f"{invalid}: {reason(error)}; {REMEDY}") from error
    settings = {name: index[name] for name in ("k", "pursuit", "nonnegative", "metadata")}
    settings |= {"least_gain": index.get("least_gain", 0.0), "sources": sources, "labels": labels}
    return {**settings, **{name: tensors.get(name) for name in ("atoms", "bias", "grown")}}, signature


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
