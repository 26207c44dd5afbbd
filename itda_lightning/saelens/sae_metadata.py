"""The metadata of ``cfg.json``: what SAELens's tools read there, and under "itda" what its format has no place for.

Sources and grown atoms are plain JSON, not tensors: SAELens casts every tensor of a file to the SAE's dtype, in which
large indices are not exact, and its upload leaves further files behind.
"""

import base64
import json
from copy import deepcopy
from typing import Any, NamedTuple, NotRequired, TypedDict

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.dictionary_files import check_metadata
from itda_lightning.dictionary.facts import MODEL_CLASSES, settings
from itda_lightning.dictionary.named_atoms import Labels
from itda_lightning.dictionary.sources import COLUMNS, Prompt, Sources
from itda_lightning.errors import InputError
from itda_lightning.machine.schema import check_schema

KEY = "itda"
VERSION = 3
REFINED_VERSION = 2  # of exports without labels, and
UNREFINED_VERSION = 1  # of exports without refined atoms, so that older versions of this package can read them
DTYPES = {str(dtype): dtype for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)}

# The fields that SAELens's tools read, with SAELens's defaults for those that a dictionary does not have. The tools
# fail on a `prepend_bos`, `context_size` or `model_from_pretrained_kwargs` of None.
EXPECTED_METADATA: dict[str, Any] = {
    "model_name": None,
    "model_class_name": "HookedTransformer",
    "hook_name": None,
    "hook_head_index": None,
    "context_size": 128,
    "prepend_bos": True,
    "seqpos_slice": [None],
    "model_from_pretrained_kwargs": {},
    "exclude_special_tokens": None,
    "dataset_path": None,
    "neuronpedia_id": None,
}


# What SAELens's runner writes for a HookedTransformer whose weights are as they were, as all loaders leave them here:
# SAELens then warns whoever loads the SAE to load the model in that way.
UNPROCESSED: dict[str, Any] = {"center_writing_weights": False}


class Content(dict[str, Any]):
    """Hold the metadata under ``KEY``: a dict whose repr is one line, since programs print configurations."""

    def __repr__(self) -> str:
        facts = (f"{name}: {self[name]!r}" for name in ("version", "n_atoms", "k", "pursuit") if name in self)
        return f"{{{', '.join(facts)}, ... {len(self)} entries}}"


def site_metadata(data: ActivationsDataModule, hook_name: str) -> dict[str, Any]:
    """Return the metadata of an SAE of activations of ``data``, with the settings of the data under ``data``."""
    own = settings(data.hparams)
    known: dict[str, Any] = {"hook_name": hook_name}
    if "model" in own:  # an array has neither a model nor a text
        known |= {
            "model_name": own["model"],
            "model_class_name": MODEL_CLASSES[own["loader"]],
            "dataset_path": own["dataset"],
            **{name: own[name] for name in ("context_size", "prepend_bos", "exclude_special_tokens")},
        }
    return _expected(known) | {"data": own}


def _expected(known: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that SAELens's tools read, from those that are known."""
    unprocessed = UNPROCESSED if known.get("model_class_name") == "HookedTransformer" else {}
    return deepcopy(EXPECTED_METADATA | {"model_from_pretrained_kwargs": unprocessed} | known)


def dictionary_metadata(dictionary: Dictionary) -> dict[str, Any]:
    """Return the metadata of a dictionary's export: under ``KEY``, exact, what ``read_provenance`` reads.

    Raises InputError for metadata that JSON cannot hold.
    """
    try:
        metadata = json.loads(json.dumps(dictionary.metadata, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the dictionary's metadata is not JSON ({error}): keep to strings, finite numbers, lists and dicts"
        ) from error
    sources, cosines = dictionary.sources, dictionary.cosines
    refinement: dict[str, Any] = (
        {} if cosines is None else {"cosines": cosines.tolist(), "grown": _encoded(dictionary.grown_atoms)}
    )
    version = REFINED_VERSION if refinement else UNREFINED_VERSION
    if (labels := dictionary.relabelled) is not None:
        version, refinement["labels"] = VERSION, _columns(labels.table)
        refinement |= {"label_cosines": labels.cosines.tolist(), "label_prompts": _listed(labels.prompts)}
    content = {
        "version": version,
        "n_atoms": dictionary.n_atoms,
        "k": dictionary.k,
        "pursuit": dictionary.pursuit,
        "nonnegative": dictionary.nonnegative,
        "dataset": dictionary.dataset,
        "sources": None if sources is None else _columns(sources.table),
        "prompts": _listed(dictionary.prompts),
        "metadata": metadata,
        **refinement,
    }
    known = {key: value for key, value in metadata.items() if key in EXPECTED_METADATA and value is not None}
    return _expected(known) | {KEY: Content(content)}


class EncodedRows(TypedDict):
    """Types of rows as JSON."""

    dtype: str
    shape: list[int]
    base64: str


class ContentFields(TypedDict):
    """Types of what stands under ``KEY``."""

    version: int
    n_atoms: int
    k: int
    pursuit: str
    nonnegative: bool
    dataset: str | None
    sources: dict[str, list[int]] | None
    prompts: list[tuple[str, str, str]] | None
    metadata: dict[str, Any]
    cosines: NotRequired[list[float]]
    grown: NotRequired[EncodedRows]
    labels: NotRequired[dict[str, list[int]]]
    label_cosines: NotRequired[list[float]]
    label_prompts: NotRequired[list[tuple[str, str, str]] | None]


class Provenance(NamedTuple):
    """The parts of a dictionary that its export keeps in the metadata, as in ``Dictionary``."""

    sources: Sources | None
    nonnegative: bool
    metadata: dict[str, Any]
    grown: Float[Tensor, "n d"] | None = None
    labels: Labels | None = None


def read_provenance(content: Any) -> Provenance:
    """Read what ``dictionary_metadata`` keeps under ``KEY``. Raises InputError if incomplete or of a newer version."""
    try:
        if content["version"] > VERSION:
            raise InputError(
                f"metadata.{KEY} has version {content['version']}, this package reads up to {VERSION}: upgrade it"
            )
        sources = labels = None
        if content["dataset"] is not None:
            sources = Sources(_table(content["sources"]), content["dataset"], _prompts(content["prompts"]))
        if "labels" in content:
            cosines = torch.tensor(content["label_cosines"], dtype=torch.float64)
            labels = Labels(_table(content["labels"]), cosines, _prompts(content["label_prompts"]))
        grown = _decoded(content["grown"]) if "grown" in content else None
        check_schema(content, ContentFields, f"metadata.{KEY} is not what this package writes", "export it again")
        check_metadata(content["metadata"], f"metadata.{KEY}.metadata.", "export it again")
        return Provenance(sources, content["nonnegative"], dict(content["metadata"]), grown, labels)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise InputError(
            f"metadata.{KEY} is not what this package writes ({type(error).__name__}: {error}): export it again"
        ) from error


def _columns(table: Int[Tensor, "n 6"]) -> dict[str, list[int]]:
    return dict(zip(COLUMNS, table.T.tolist(), strict=True))


def _table(columns: dict[str, list[int]]) -> Int[Tensor, "n 6"]:
    return torch.tensor([columns[column] for column in COLUMNS], dtype=torch.int64).T.contiguous()


def _listed(prompts: tuple[Prompt, ...] | None) -> list[list[str]] | None:
    return None if prompts is None else [list(prompt) for prompt in prompts]


def _prompts(listed: list[list[str]] | None) -> tuple[Prompt, ...] | None:
    return None if listed is None else tuple(Prompt(*prompt) for prompt in listed)


def _encoded(rows: Float[Tensor, "n d"]) -> dict[str, Any]:
    """Return rows bit for bit as JSON values."""
    content = rows.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return {"dtype": str(rows.dtype), "shape": list(rows.shape), "base64": base64.b64encode(content).decode()}


def _decoded(content: dict[str, Any]) -> Float[Tensor, "n d"]:
    values = bytearray(base64.b64decode(content["base64"], validate=True))
    return torch.frombuffer(values, dtype=DTYPES[content["dtype"]]).reshape(content["shape"])
