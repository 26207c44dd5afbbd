"""What SAELens's format has no place for, as plain JSON in the metadata of ``cfg.json``.

Not as tensors: SAELens casts every tensor of a file to the SAE's dtype, in which large indices are not exact, and its
upload leaves further files behind.
"""

import json
from typing import Any, NamedTuple

import torch

from itda_lightning.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.sources import COLUMNS, Prompt, Sources

KEY = "itda"
VERSION = 1


class Provenance(NamedTuple):
    """What ``read_provenance`` finds.

    Attributes:
        sources: one source an atom, or None.
        nonnegative: whether the dictionary's coefficients are non-negative.
        metadata: the dictionary's own.
    """

    sources: Sources | None
    nonnegative: bool
    metadata: dict[str, Any]


def as_json(dictionary: Dictionary) -> dict[str, Any]:
    """Sources, settings and metadata of a dictionary as JSON values; integers are exact.

    Raises:
        InputError: metadata that JSON cannot hold.
    """
    try:
        metadata = json.loads(json.dumps(dictionary.metadata, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the dictionary's metadata is not JSON ({error}): keep to strings, finite numbers, lists and dicts"
        ) from error
    sources = dictionary.sources
    columns = None if sources is None else dict(zip(COLUMNS, sources.table.T.tolist(), strict=True))
    return {
        "version": VERSION,
        "n_atoms": dictionary.n_atoms,
        "k": dictionary.k,
        "pursuit": dictionary.pursuit,
        "nonnegative": dictionary.nonnegative,
        "dataset": dictionary.dataset,
        "sources": columns,
        "prompts": None if dictionary.prompts is None else [list(prompt) for prompt in dictionary.prompts],
        "metadata": metadata,
    }


def read_provenance(content: Any) -> Provenance:
    """Read what ``as_json`` made.

    Raises:
        InputError: content that is not whole or of a newer version.
    """
    try:
        if content["version"] > VERSION:
            raise InputError(
                f"metadata.{KEY} has version {content['version']}, this package reads up to {VERSION}: upgrade it"
            )
        sources, prompts = None, content["prompts"]
        if content["dataset"] is not None:
            table = torch.tensor([content["sources"][column] for column in COLUMNS], dtype=torch.int64).T.contiguous()
            sources = Sources(
                table, content["dataset"], None if prompts is None else tuple(Prompt(*prompt) for prompt in prompts)
            )
        return Provenance(sources, bool(content["nonnegative"]), dict(content["metadata"]))
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"metadata.{KEY} is not what this package writes ({type(error).__name__}: {error}): export it again"
        ) from error
