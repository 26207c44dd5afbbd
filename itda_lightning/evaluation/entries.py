"""Load what is evaluated: an ITDA or any SAELens SAE, by path or by release."""

from pathlib import Path
from typing import Any, NamedTuple

from sae_lens import SAE

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.fitting.loading import downloaded, load_all, load_dictionary
from itda_lightning.fitting.run_directory import is_run
from itda_lightning.saelens import from_sae, to_sae
from itda_lightning.saelens.export_files import SAE_FILES, check_sae_files
from itda_lightning.saelens.hub import is_repository

EXPORT_CONFIG = "cfg.json"


class Entry(NamedTuple):
    """What is evaluated: an SAE and the ITDA behind it, if there is one; its name is its path or release."""

    name: str
    sae: SAE[Any]
    dictionary: Dictionary | None

    @property
    def hook_name(self) -> str:
        return str(self.sae.cfg.metadata.hook_name)


def load_entries(reference: str, hook_name: str | None = None) -> list[Entry]:
    """Load the dictionaries of all hook points of a run, or one entry; raise as ``load_entry``."""
    if hook_name is not None or is_repository(reference) or not is_run(reference):
        return [load_entry(reference, hook_name)]
    return [Entry(reference, to_sae(dictionary), dictionary) for dictionary in load_all(reference)]


def load_entry(reference: str, hook_name: str | None = None, device: str = "cpu") -> Entry:
    """Load an ITDA or an SAE by its path or release.

    Args:
        reference: a run directory, a checkpoint, a saved or exported dictionary, a SAELens SAE on disk, hf://owner/name
            as ``load_dictionary``, or ``release:sae_id``.
        hook_name: which of several dictionaries; the hook point of an SAE that does not name its own.
        device: device of its tensors.

    Raises:
        InputError: no such path, repository or release, damaged files, an architecture that SAELens does not know, a
            release that is neither reachable nor in the hub cache, another hook point than ``hook_name``, or none.
    """
    path = downloaded(reference)
    dictionary: Dictionary | None
    if path.exists() and not (path / EXPORT_CONFIG).is_file():
        dictionary = load_dictionary(path, hook_name, device)
        sae = to_sae(dictionary)
    else:
        sae = _load_sae(reference, path, device)
        try:
            dictionary = from_sae(sae)
        except InputError:
            dictionary = None
    held = sae.cfg.metadata.hook_name
    if held is None and hook_name is None:
        raise InputError(f"{reference} does not name its hook point: give --hook_name")
    if None not in (held, hook_name) and held != hook_name:
        raise InputError(
            f"{reference} reads the hook point {held!r}, not {hook_name!r}: leave out --hook_name or correct it"
        )
    sae.cfg.metadata.hook_name = held or hook_name
    return Entry(reference, sae, dictionary)


def _load_sae(reference: str, path: Path, device: str) -> SAE[Any]:
    if path.exists():
        try:
            for name in SAE_FILES:
                (path / name).open("rb").close()  # safetensors calls a file missing that this user may not read
            sae = SAE.load_from_disk(path, device=device)
            check_sae_files(path)
            return sae
        except InputError:
            raise
        except Exception as error:  # a damaged or unknown export raises anything from KeyError to SafetensorError
            raise InputError(
                f"{path} cannot be loaded as a SAELens SAE ({type(error).__name__}: {error}): check that its files are "
                "complete and that the package of its architecture is installed"
            ) from error
    if ":" not in reference:
        raise InputError(f"{reference} does not exist: give a path, or release:sae_id of a pretrained SAE")
    release, sae_id = reference.split(":", 1)
    try:
        return SAE.from_pretrained(release, sae_id, device=device)
    except Exception as error:  # unknown names are ValueErrors, an unreachable hub is one of a dozen types
        first_line = (str(error).strip().splitlines() or [""])[0]
        raise InputError(
            f"the release {release!r} with sae_id {sae_id!r} cannot be loaded ({type(error).__name__}: {first_line}): "
            "check both names, and that the hub is reachable or its cache holds them"
        ) from error
