"""Check the types of what JSON files hold: every field is there, none is unknown, and each has exactly its type."""

import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from cattrs import BaseValidationError, Converter, transform_error

from itda_lightning.errors import InputError

SCALARS = {bool, int, float, str, type(None)}
SHOWN = 3  # problems of one file that are named


def check_schema(content: Any, kind: Any, what: str, remedy: str) -> Any:
    """Return JSON content as a TypedDict or another type of exactly that kind; a whole number may be a float.

    Raises InputError with the first fields that are missing, unknown or of another type, and their values.
    """
    try:
        return STRICT.structure(content, kind)
    except BaseValidationError as error:
        problems = transform_error(error, path="", format_exception=_told)
        raise InputError(f"{what}: {'; '.join(problems[:SHOWN])}; {remedy}") from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{what}: {_told(error)}; {remedy}") from error


def check_known(content: Mapping[str, Any], kinds: Mapping[str, Any], what: str, remedy: str) -> None:
    """Check the entries whose names are known (name -> type), whatever others there are. Raises as ``check_schema``."""
    for name, kind in kinds.items():
        if name in content:
            check_schema(content[name], kind, f"{what}{name}", remedy)


def exactly(value: Any, kind: Any) -> Any:
    """Return a bool, number or string of exactly one of the kinds, an int also as a float; raise TypeError if not."""
    allowed = set(get_args(kind)) or {kind}
    if type(value) is int and float in allowed and int not in allowed:
        return float(value)
    if type(value) not in allowed:
        names = " or ".join(sorted(one.__name__ for one in allowed))
        raise TypeError(f"expected {names}, got {value!r:.60}")
    return value


def _told(error: BaseException, _: Any = None) -> str:
    if isinstance(error, KeyError):
        return f"{error.args[0]!r} is missing"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _list(value: Any, kind: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list, got {value!r:.60}")
    return [STRICT.structure(item, get_args(kind)[0]) for item in value]


def _tuple(value: Any, kind: Any) -> tuple[Any, ...]:
    kinds = get_args(kind)
    if not isinstance(value, list) or len(value) != len(kinds):
        raise TypeError(f"expected a list of {len(kinds)}, got {value!r:.60}")
    return tuple(STRICT.structure(item, one) for item, one in zip(value, kinds, strict=True))


def _dict(value: Any, kind: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, got {value!r:.60}")
    _, of = get_args(kind)
    return value if of is Any else {key: STRICT.structure(item, of) for key, item in value.items()}


def _choice(value: Any, kind: Any) -> Any:
    if value not in get_args(kind):
        raise TypeError(f"expected one of {get_args(kind)}, got {value!r:.60}")
    return value


def _is_of(origin: Any) -> Callable[[Any], bool]:
    return lambda kind: bool(get_origin(kind) == origin)


def _of_scalars(kind: Any) -> bool:
    return kind in SCALARS or (get_origin(kind) in (Union, types.UnionType) and set(get_args(kind)) <= SCALARS)


STRICT = Converter(forbid_extra_keys=True)
for scalar in (bool, int, float, str):
    STRICT.register_structure_hook(scalar, exactly)
STRICT.register_structure_hook_func(_of_scalars, exactly)
for origin, hook in ((list, _list), (tuple, _tuple), (dict, _dict), (Literal, _choice)):
    STRICT.register_structure_hook_func(_is_of(origin), hook)
