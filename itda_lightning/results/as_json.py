"""Write results as JSON and read them back with their types."""

import dataclasses
import json
import math
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

from cattrs import BaseValidationError, Converter, transform_error
from cattrs.gen import make_dict_structure_fn

from itda_lightning.errors import InputError
from itda_lightning.machine.atomic_files import write_text
from itda_lightning.machine.digests import DamagedError, check_signed, reason, signed_json, warn_unsigned
from itda_lightning.results.comparison import Comparison, Row
from itda_lightning.results.difference import Difference
from itda_lightning.results.model_similarity import ModelSimilarity
from itda_lightning.results.run_results import RunResults

Results = TypeVar("Results", RunResults, Row, Comparison, Difference, ModelSimilarity)
FORMATS: dict[type, str] = {
    RunResults: "itda_lightning.results",
    Row: "itda_lightning.row",
    Comparison: "itda_lightning.comparison",
    ModelSimilarity: "itda_lightning.similarity",
    Difference: "itda_lightning.difference",
}
# Version 2 gave rows of comparisons their ``encoding``; version 3 gave that its ``least_gain``, and atoms ``detected``;
# version 4 gave results of a run the activations' own norms, texts to read and the meanings of atoms; version 5 gave
# measures of rows the sums by document or scores by draw that they were computed from; version 6 gave rows the share of
# a training at which its learning rate begins to decay; version 7 gave measures between models what is expected of
# permuted tokens.
FORMAT_VERSION = 7
# The fields of a measure that versions before 5 lack.
UNPAIRED: dict[str, None] = {"documents": None, "draws": None}


def to_json(results: RunResults | Row | Comparison | Difference | ModelSimilarity) -> str:
    """Return results as JSON. Numbers that are not finite, which JSON lacks, become null."""
    return json.dumps(_content(results), ensure_ascii=False, allow_nan=False)


def write_results(path: Path, results: RunResults | Row | Comparison | Difference | ModelSimilarity) -> None:
    """Write results as JSON with a digest, in one step. Raises as ``write_text``."""
    write_text(path, signed_json(_content(results), indent=None))


def _content(results: Any) -> dict[str, Any]:
    facts = {"format": FORMATS[type(results)], "version": FORMAT_VERSION}
    return facts | {"results": CONVERTER.unstructure(results)}


def read_results(path: Path, kind: type[Results]) -> Results:
    """Read results from a file; one line of warning if it has no digest. Raises InputError as ``from_json``."""
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({reason(error)}): write it again") from error
    results = from_json(text, kind)
    if check_signed(text.encode()) == "none":
        warn_unsigned(path)
    return results


def check_results(text: str, content: Any) -> None:
    """Raise InputError if JSON text with this content says that it holds results, and does not."""
    kinds: dict[str, Any] = {name: kind for kind, name in FORMATS.items()}
    if isinstance(content, dict) and (kind := kinds.get(str(content.get("format")))) is not None:
        from_json(text, kind)


def from_json(text: str, kind: type[Results]) -> Results:
    """Read results of that kind that ``to_json`` wrote, now or in an earlier version; null in place of a number is nan.

    Raises:
        InputError: text that ``to_json`` did not write, results of another kind or of a newer version, a field that is
            missing or of another type; a digest, of text that ``write_results`` wrote, that is not that of the rest.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the results are not JSON ({error}): write them again") from error
    if not isinstance(content, dict) or content.get("format") != FORMATS[kind]:
        raise InputError(f"expected JSON of the format {FORMATS[kind]!r} as to_json writes it, got {text[:60]!r}")
    version = content.get("version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise InputError(
            f"the results have format version {version}, this package reads up to {FORMAT_VERSION}: upgrade it"
        )
    try:
        check_signed(text.encode())
    except DamagedError as error:
        raise InputError(f"the results are damaged ({error}): write them again") from error
    try:
        results: Results = CONVERTER.structure(_upgraded(content["results"], kind, version), kind)
    except BaseValidationError as error:
        problems = "; ".join(transform_error(error, format_exception=lambda cause, _: str(cause)))
        raise InputError(
            f"the results lack a field or hold one of another kind ({problems}): write them again"
        ) from error
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise InputError(f"the results lack a field or hold one of another kind ({error}): write them again") from error
    return results


def _upgraded(results: Any, kind: type, version: int) -> Any:
    """Give results of earlier versions the fields of today; version 1 told how an entry encodes only in words."""
    rows = [results] if kind is Row else results["rows"] if kind is Comparison else []
    for row in rows if version < 2 else []:
        words = row["settings"]
        row["encoding"] = None
        if {"k", "pursuit", "nonnegative", "centred"} <= set(words):
            signs = {name: words[name] == "True" for name in ("nonnegative", "centred")}
            row["encoding"] = {"k": int(words["k"]), "pursuit": words["pursuit"], **signs}
    for row in rows if version < 3 else []:
        if row["encoding"] is not None:
            row["encoding"]["least_gain"] = 0.0
    for row in rows if version < 5 else []:
        row["measures"] = {name: estimate | UNPAIRED for name, estimate in row["measures"].items()}
    for row in rows if version < 6 else []:
        row["decay_from"] = None
    for measured in results["measured"] if kind is ModelSimilarity and version < 7 else []:
        measured |= {"nulls": [], "excesses": []}
    for atom in results["usage"]["atoms"] if kind is RunResults and version < 3 else []:
        atom["detected"] = []
    if kind is RunResults and version < 4:
        results |= {"worst": [], "reading": [], "meanings": [], "signed": True}
        results["usage"]["unexplained"] = []
        for decomposition in results["decompositions"]:  # which said how far the activation is from the mean
            decomposition["distance"], decomposition["norm"] = decomposition["norm"], None
    return results


def _scalar(value: Any, kind: Any) -> Any:
    """Read a bool, string or number of exactly that kind; null as a float is nan."""
    allowed = set(get_args(kind)) or {kind}
    if float in allowed and value is None:
        return math.nan
    if kind is float and type(value) is int:
        return float(value)
    if type(value) not in allowed:
        raise TypeError(f"expected {getattr(kind, '__name__', kind)}, got {value!r:.60}")
    return value


def _whole(kind: Any) -> Callable[[Any, Any], Any]:
    """Make the reader of a dataclass whose fields must all be there, also those with defaults."""
    names = [field.name for field in dataclasses.fields(kind)]
    build = make_dict_structure_fn(kind, CONVERTER)

    def structure(value: Any, _: Any) -> Any:
        missing = [name for name in names if name not in value]
        if missing:
            raise KeyError(*missing)
        return build(value, kind)

    return structure


CONVERTER = Converter()
CONVERTER.register_unstructure_hook(float, lambda value: value if math.isfinite(value) else None)
for scalar in (bool, int, float, str):
    CONVERTER.register_structure_hook(scalar, _scalar)
CONVERTER.register_structure_hook_func(
    lambda kind: isinstance(kind, types.UnionType) and set(get_args(kind)) == {int, float}, _scalar
)
CONVERTER.register_structure_hook_factory(dataclasses.is_dataclass, _whole)
