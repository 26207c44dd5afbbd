"""Load a dictionary from a directory, a run, a checkpoint or an export."""

import os
from pathlib import Path
from typing import Any

import torch

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.dictionary_files import INDEX_FILE, TENSORS_FILE
from itda_lightning.dictionary.named_atoms import Labels
from itda_lightning.dictionary.sources import Sources
from itda_lightning.errors import InputError
from itda_lightning.fitting.checkpoint_io import read_checkpoint, state_of_a_fit
from itda_lightning.fitting.run_directory import DICTIONARIES, is_run
from itda_lightning.machine.devices import device_of
from itda_lightning.machine.digests import reason
from itda_lightning.machine.part_files import is_part
from itda_lightning.machine.paths import user_path
from itda_lightning.saelens import load_export
from itda_lightning.saelens.hub import download, is_repository

EXPORT_FILES = ("cfg.json", "sae_weights.safetensors")


def load_dictionary(path: str | Path, hook_name: str | None = None, device: str | torch.device = "cpu") -> Dictionary:
    """Load a dictionary.

    Args:
        path: a directory written by ``Dictionary.save``, a run directory (``dictionaries/<hook name>/``), a Lightning
            checkpoint, a SAELens export of architecture "itda" or "matching_pursuit", or hf://owner/name, a repository
            of the hub that ``push_to_hub`` filled, with @revision for another one than the newest.
        hook_name: which of several dictionaries; not needed for a single one. Of a joint one also one of its sites.
        device: where its tensors go.

    Raises:
        InputError: no such path or repository, nothing of this kind in it, damaged files, no dictionary of that hook
            point, or several and no ``hook_name``; a device that is not available.

    Example:
        >>> import torch
        >>> import itda_lightning as il
        >>> il.Dictionary(torch.eye(4), k=2).save("saved")
        >>> il.load_dictionary("saved").n_atoms
        4
    """
    device = device_of(device)
    path = downloaded(path)
    if path.is_file():
        return _from_checkpoint(path, hook_name, device)
    if not path.exists():
        raise InputError(
            f"{path} does not exist: give a run directory, a checkpoint, a saved or exported dictionary, or "
            "hf://owner/name for one on the hub"
        )
    if any((path / name).is_file() for name in (INDEX_FILE, TENSORS_FILE)):
        dictionary = Dictionary.load(path, device)
    elif is_run(path):
        entries = [entry for entry in (path / DICTIONARIES).iterdir() if not is_part(entry)]
        names = sorted(entry.name for entry in entries if (entry / INDEX_FILE).is_file())
        return _of_run(path, names, hook_name, device)
    elif any((path / name).is_file() for name in EXPORT_FILES):
        dictionary = load_export(path, device)
    else:
        raise InputError(
            f"{path} holds no dictionary: expected {INDEX_FILE} (Dictionary.save), {DICTIONARIES}/ (a run) or "
            f"{EXPORT_FILES[0]} (a SAELens export)"
        )
    held = dictionary.metadata.get("hook_name")
    if hook_name in dictionary.sites.hook_names:
        return dictionary.view(hook_name)
    if hook_name is not None and held is not None and held != hook_name:
        raise InputError(
            f"{path} holds the dictionary of {held!r}, not of {hook_name!r}: leave out hook_name or fix it"
        )
    return dictionary


def _of_run(path: Path, names: list[str], hook_name: str | None, device: str | torch.device) -> Dictionary:
    """Load one of the dictionaries of a run, or the view of a site of a joint one."""
    if hook_name is not None and hook_name not in names:
        for name in names:
            dictionary = Dictionary.load(path / DICTIONARIES / name, device)
            if hook_name in dictionary.sites.hook_names:
                return dictionary.view(hook_name)
    return Dictionary.load(path / DICTIONARIES / _choose(names, hook_name, path), device)


def load_all(path: str | Path, hook_name: str | None = None) -> list[Dictionary]:
    """Load all dictionaries of a run directory, or one as ``load_dictionary``, which raises in the same cases."""
    if hook_name is None and not is_repository(path) and is_run(path):
        names = [entry.name for entry in sorted((user_path(path) / DICTIONARIES).iterdir()) if not is_part(entry)]
        if names:
            return [load_dictionary(path, name) for name in names]
    return [load_dictionary(path, hook_name)]


def downloaded(path: str | Path) -> Path:
    """Return a readable path, or the directory into which a repository of the hub is downloaded.

    Raises InputError for one that may not be read, or a repository without a dictionary.
    """
    if not is_repository(path):
        check_readable(path := user_path(path))
        return path
    directory = download(path, [f"{DICTIONARIES}/*"])
    if not is_run(directory):
        raise InputError(
            f"{path} holds no dictionary that push_to_hub wrote ({DICTIONARIES}/): load its SAEs by SAELens's "
            "SAE.from_pretrained, and il.from_sae"
        )
    return directory


def check_readable(path: Path) -> None:
    """Raise InputError for what another user does not share; what does not exist is told elsewhere."""
    try:
        allowed = os.access(path, os.R_OK | os.X_OK if path.is_dir() else os.R_OK) or not path.exists()
    except PermissionError:
        allowed = False
    except (OSError, ValueError) as error:  # too long, or with a NUL
        raise InputError(f"{path!s:.200} is no path ({reason(error)}): give a run directory or a checkpoint") from error
    if not allowed:
        raise InputError(f"{path} may not be read (permission denied): its owner can share it by chmod -R a+rX")


def _from_checkpoint(path: Path, hook_name: str | None, device: str | torch.device) -> Dictionary:
    """Load one dictionary of a Lightning checkpoint, without prompts."""
    checkpoint = read_checkpoint(path)
    if "itda" not in checkpoint:
        raise InputError(f"{path} is not a checkpoint of a dictionary: its keys are {sorted(map(str, checkpoint))}")
    with state_of_a_fit(f"the checkpoint {path}"):
        return _of_checkpoint(checkpoint["state_dict"], checkpoint["itda"], hook_name, path, device)


def _of_checkpoint(
    state: dict[str, Any], settings: dict[str, Any], hook_name: str | None, path: Path, device: str | torch.device
) -> Dictionary:
    index = settings["hook_names"].index(_choose(settings["hook_names"], hook_name, path))
    prefix = f"dictionaries.{index}."
    count = int(state[prefix + "_count"])
    if not 0 <= count <= len(state[prefix + "_atoms"]):
        raise ValueError(f"it has {count:,} atoms and room for {len(state[prefix + '_atoms']):,}")
    table = state[prefix + "_table"][:count].cpu().clone()
    labels = None
    if prefix + "_labels" in state:
        labels = Labels(state[prefix + "_labels"][:count], state[prefix + "_label_cosines"][:count])
    return Dictionary(
        state[prefix + "_atoms"][:count].to(device),
        state[prefix + "bias"].to(device),
        None if settings["dataset"] is None else Sources(table, settings["dataset"]),
        k=settings["k"],
        pursuit=settings["pursuit"],
        nonnegative=settings["nonnegative"],
        least_gain=settings["least_gains"][index] if "least_gains" in settings else 0.0,
        metadata=settings["metadata"][index],
        grown=state[grown][:count].to(device) if (grown := prefix + "_grown") in state else None,
        labels=labels,
    )


def _choose(names: list[str], hook_name: str | None, path: Path) -> str:
    """Return the hook point to load: the given one, or the only one."""
    if not names:
        raise InputError(f"{path} holds no finished dictionary: give one of its checkpoints, or finish the run")
    if hook_name is None and len(names) > 1:
        raise InputError(f"{path} holds dictionaries of several hook points: give hook_name, one of {names}")
    if hook_name is not None and hook_name not in names:
        raise InputError(f"{path} holds no dictionary of {hook_name!r}: give one of {names}")
    return hook_name or names[0]
