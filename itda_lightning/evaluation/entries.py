"""What an evaluation is given: an ITDA or any SAELens SAE, by path or by release."""

from pathlib import Path
from typing import Any, NamedTuple

from sae_lens import SAE

from itda_lightning.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.loading import load_dictionary
from itda_lightning.saelens import from_sae, to_sae

EXPORT_CONFIG = "cfg.json"


class Entry(NamedTuple):
    """Something to evaluate.

    Attributes:
        name: how it was asked for.
        sae: the SAELens SAE.
        dictionary: the ITDA behind it, or None for an SAE of another kind.
    """

    name: str
    sae: SAE[Any]
    dictionary: Dictionary | None


def load_entry(reference: str, hook_name: str | None = None, device: str = "cpu") -> Entry:
    """Load an ITDA (run directory, checkpoint, saved or exported dictionary), a SAELens SAE on disk, or ``release:sae_id``.

    Raises:
        InputError: no such path or release, damaged files, an architecture that SAELens does not know, a release that
            is neither reachable nor in the hub cache.
    """
    path = Path(reference).expanduser()
    if not path.exists():
        if ":" in reference:
            return _from_release(reference, device)
        raise InputError(f"{reference} does not exist: give a path, or release:sae_id of a pretrained SAE")
    if path.is_dir() and (path / EXPORT_CONFIG).is_file():
        return _from_disk(path, device)
    dictionary = load_dictionary(path, hook_name, device)
    return Entry(reference, to_sae(dictionary), dictionary)


def _from_disk(path: Path, device: str) -> Entry:
    try:
        sae: SAE[Any] = SAE.load_from_disk(path, device=device)
    except Exception as error:  # a damaged or unknown export raises anything from KeyError to SafetensorError
        raise InputError(
            f"{path} cannot be loaded as a SAELens SAE ({type(error).__name__}: {error}): check that its files are whole "
            "and that the package of its architecture is installed"
        ) from error
    return Entry(str(path), sae, _dictionary_behind(sae))


def _from_release(reference: str, device: str) -> Entry:
    release, sae_id = reference.split(":", 1)
    try:
        sae: SAE[Any] = SAE.from_pretrained(release, sae_id, device=device)
    except Exception as error:  # unknown names are ValueErrors, an unreachable hub is one of a dozen types
        first_line = (str(error).strip().splitlines() or [""])[0]
        raise InputError(
            f"the release {release!r} with sae_id {sae_id!r} is not to be had ({type(error).__name__}: {first_line}): "
            "check both names, and that the hub is reachable or its cache holds them"
        ) from error
    return Entry(reference, sae, _dictionary_behind(sae))


def _dictionary_behind(sae: SAE[Any]) -> Dictionary | None:
    try:
        return from_sae(sae)
    except InputError:
        return None
