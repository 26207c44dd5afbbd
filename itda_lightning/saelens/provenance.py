"""What SAELens's format has no place for, as plain JSON in the metadata of ``cfg.json``.

Not as tensors: SAELens casts every tensor of a file to the SAE's dtype, in which large indices are not exact, and its
upload leaves further files behind.
"""

import base64
import json
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.sources import COLUMNS, Prompt, Sources
from itda_lightning.errors import InputError

KEY = "itda"
VERSION = 2
UNREFINED_VERSION = 1  # of exports without refined atoms, which older versions of this package read too
DTYPES = {str(dtype): dtype for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)}


class Provenance(NamedTuple):
    """What ``read_provenance`` finds.

    Attributes:
        sources: one source an atom, or None.
        nonnegative: whether the dictionary's coefficients are non-negative.
        metadata: the dictionary's own.
        grown: the atoms as they were grown where those exported are refined ones, or None.
    """

    sources: Sources | None
    nonnegative: bool
    metadata: dict[str, Any]
    grown: Float[Tensor, "n d"] | None = None


def as_json(dictionary: Dictionary) -> dict[str, Any]:
    """Sources, settings and metadata of a dictionary as JSON values; integers and grown atoms are exact.

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
    cosines = dictionary.cosines
    refinement = {} if cosines is None else {"cosines": cosines.tolist(), "grown": _encoded(dictionary.grown_atoms)}
    return {
        "version": VERSION if refinement else UNREFINED_VERSION,
        "n_atoms": dictionary.n_atoms,
        "k": dictionary.k,
        "pursuit": dictionary.pursuit,
        "nonnegative": dictionary.nonnegative,
        "dataset": dictionary.dataset,
        "sources": columns,
        "prompts": None if dictionary.prompts is None else [list(prompt) for prompt in dictionary.prompts],
        "metadata": metadata,
        **refinement,
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
        grown = _decoded(content["grown"]) if "grown" in content else None
        return Provenance(sources, bool(content["nonnegative"]), dict(content["metadata"]), grown)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"metadata.{KEY} is not what this package writes ({type(error).__name__}: {error}): export it again"
        ) from error


def _encoded(rows: Float[Tensor, "n d"]) -> dict[str, Any]:
    """Rows bit for bit as JSON values."""
    content = rows.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return {"dtype": str(rows.dtype), "shape": list(rows.shape), "base64": base64.b64encode(content).decode()}


def _decoded(content: dict[str, Any]) -> Float[Tensor, "n d"]:
    values = bytearray(base64.b64decode(content["base64"], validate=True))
    return torch.frombuffer(values, dtype=DTYPES[content["dtype"]]).reshape(content["shape"])
