"""Results as JSON text and back."""

import dataclasses
import json
import math
import types
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from itda_lightning.errors import InputError
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
FORMAT_VERSION = 1


def to_json(results: RunResults | Row | Comparison | Difference | ModelSimilarity) -> str:
    """The results as JSON text. Numbers that are not finite, which JSON lacks, become null."""
    content = {
        "format": FORMATS[type(results)],
        "version": FORMAT_VERSION,
        "results": _finite(dataclasses.asdict(results)),
    }
    return json.dumps(content, ensure_ascii=False, allow_nan=False)


def from_json(text: str, kind: type[Results]) -> Results:
    """The results of that kind that ``to_json`` wrote; null where a number belongs is read as nan.

    Raises:
        InputError: text that ``to_json`` did not write, of another kind, or that a newer version wrote.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise InputError(f"the results are not JSON ({error}): write them again") from error
    if not isinstance(content, dict) or content.get("format") != FORMATS[kind]:
        raise InputError(f"expected JSON of the format {FORMATS[kind]!r} as to_json writes it, got {text[:60]!r}")
    if content["version"] > FORMAT_VERSION:
        raise InputError(
            f"the results have format version {content['version']}, this package reads up to {FORMAT_VERSION}: "
            "upgrade it"
        )
    try:
        results: Results = _build(kind, content["results"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"the results lack a field or hold one of another kind ({error}): write them again") from error
    return results


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _build(kind: Any, value: Any) -> Any:
    """``value``, as ``json.loads`` gives it, in the form that the annotation ``kind`` asks for."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is types.UnionType:
        if value is None:
            return None if types.NoneType in arguments else math.nan
        kinds = [argument for argument in arguments if argument is not types.NoneType]
        return _build(kinds[0], value) if len(kinds) == 1 else value
    if origin is dict:
        return {key: _build(arguments[1], item) for key, item in value.items()}
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return tuple(_build(arguments[0], item) for item in value)
        return tuple(_build(part, item) for part, item in zip(arguments, value, strict=True))
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = get_type_hints(kind)
        return kind(**{name: _build(hint, value[name]) for name, hint in hints.items()})
    if isinstance(kind, type) and issubclass(kind, tuple):
        return kind(*value)
    if kind is float:
        return math.nan if value is None else float(value)
    return value
