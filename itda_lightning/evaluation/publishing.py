"""Put dictionaries on the hub: their files, exports for SAELens and a model card, without local paths."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from itda_lightning.dictionary.copies import copied, without_prompts
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.facts import without_local_paths
from itda_lightning.errors import InputError
from itda_lightning.evaluation.data_of import add_prompts
from itda_lightning.evaluation.plain_pursuit import growth_of_error
from itda_lightning.evaluation.reading import data_of
from itda_lightning.evaluation.typical_uses import typical_coefficients
from itda_lightning.fitting.run_directory import DICTIONARIES
from itda_lightning.machine.atomic_files import write_text
from itda_lightning.saelens import save_export
from itda_lightning.saelens.convert import Architecture
from itda_lightning.saelens.hub import make_repository, upload_directory
from itda_lightning.saelens.repository_card import Shared, repository_card

# Architecture of an export -> the pursuit that it needs, None for the dictionary's own.
EXPORTS: dict[Architecture, Literal["mp"] | None] = {"itda": None, "matching_pursuit": "mp"}
UNNAMED = "dictionary"


def push_to_hub(
    dictionaries: Sequence[Dictionary], repo_id: str, private: bool, prompts: bool, text_licence: str | None
) -> str:
    """Do the work of ``Dictionary.push_to_hub``, of any number of dictionaries in one commit."""
    if not dictionaries or not all(dictionary.n_atoms for dictionary in dictionaries):
        raise InputError("there is a dictionary without atoms: fit it before it is pushed")
    make_repository(repo_id, private)
    with tempfile.TemporaryDirectory(prefix="itda_lightning-") as place:
        directory = Path(place) / "repository"
        fill(directory, dictionaries, repo_id, prompts, text_licence)
        names = ", ".join(str(one.metadata.get("hook_name") or UNNAMED) for one in dictionaries)
        return upload_directory(directory, repo_id, f"Add the dictionary of {names}")


def fill(
    directory: Path, dictionaries: Sequence[Dictionary], repo_id: str, prompts: bool, text_licence: str | None
) -> None:
    """Write what a repository holds into a new directory.

    That is ``dictionaries/HOOK/`` as in a run directory, ``itda/HOOK/`` and ``matching_pursuit/HOOK/`` for SAELens, of
    a joint dictionary one of each site, and README.md. Raises InputError for an empty dictionary, or two of one hook
    point.
    """
    shared = []
    for dictionary in dictionaries:
        name = str(dictionary.metadata.get("hook_name") or UNNAMED)
        if (directory / DICTIONARIES / name).exists():
            raise InputError(f"two dictionaries are of {name}: push them to two repositories")
        growth = _measured(dictionary)
        ready = copied(dictionary, metadata=without_local_paths(dictionary.metadata))
        ready = ready if prompts else without_prompts(ready)
        sites = ready.sites.hook_names
        views = [(site, ready.view(site), dictionary.view(site)) for site in sites] or [(name, ready, dictionary)]
        for place, view, local in views:
            for architecture, pursuit in EXPORTS.items():
                measured = growth is not None and architecture != "itda"  # of itda the fit's validation tells
                heldout = _heldout(local) if measured else None
                save_export(view, directory / architecture / place, architecture, pursuit=pursuit, heldout=heldout)
        exports: dict[str, list[str]] = {
            architecture: [f"{architecture}/{place}" for place, _, _ in views] for architecture in EXPORTS
        }
        ready.save(directory / DICTIONARIES / name)
        shared.append(Shared(ready, exports, growth))
    write_text(directory / "README.md", repository_card(shared, repo_id, text_licence))


def _measured(dictionary: Dictionary) -> str | None:
    """Add what colleagues need and only held-out activations tell; None if these are not on disk."""
    try:
        hook, data = data_of(dictionary)
        add_prompts(dictionary, data)
        if data.stored("heldout") is None:
            return None
        typical_coefficients(dictionary)
        return growth_of_error(dictionary, data, hook)
    except InputError:
        return None


def _heldout(dictionary: Dictionary) -> Iterator[Float[Tensor, "batch d"]]:
    hook, data = data_of(dictionary)
    return (x for x, _ in data.heldout_batches(hook))
