"""A single value where a list is meant is a list of one: on the command line, in YAML and in nested settings."""

import argparse
from collections.abc import Iterable, Sequence
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from jsonargparse import get_loader
from jsonargparse._core import ArgumentGroup
from jsonargparse._typehints import ActionTypeHint

LISTS = (list, Sequence, Iterable)
SINGLE = (str, bool, int, float, dict, argparse.Namespace)


class _ListAction(ActionTypeHint):
    """The action of an option that holds a list."""

    def _check_type_(self, value: Any, append: bool = False, **others: Any) -> Any:
        return super()._check_type_(value if append else listed(value, self._typehint), append=append, **others)


class ListsOfOne:
    """A parser or group of jsonargparse whose options that hold nothing but lists take a single value, too.

    Parsers of nested settings are of the class of the parser that they are nested in.
    """

    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action:
        """Add an option as jsonargparse does."""
        action: argparse.Action = super().add_argument(*args, **kwargs)  # type: ignore[misc]
        if type(action) is ActionTypeHint and items_of(action._typehint):
            action.__class__ = _ListAction
        return action


class Group(ListsOfOne, ArgumentGroup):
    """A group of options of such a parser."""


def listed(value: Any, hint: Any) -> Any:
    """Return a list of one for a single value of an option whose type holds nothing but lists; others as they are.

    Example:
        >>> listed("cka", list[str]), listed("[cka]", list[str]), listed(3, tuple[int, ...] | None)
        (['cka'], '[cka]', [3])
        >>> listed("pca", bool | list[str]), listed("true", bool | list[str])
        (['pca'], 'true')
    """
    items = items_of(hint)
    if not items or not isinstance(value, SINGLE):
        return value
    if isinstance(value, bool) and bool in _kinds(hint):
        return value
    if isinstance(value, str):
        try:
            loaded = get_loader("yaml")(value)
        except (yaml.YAMLError, ValueError, RecursionError):
            return value
        if loaded is None or isinstance(loaded, list) or (isinstance(loaded, bool) and bool in _kinds(hint)):
            return value
        # A name may look like a number.
        return [value] if any(str in (item, *get_args(item)) for item in items) else [loaded]
    return [value]


def items_of(hint: Any) -> list[Any]:
    """Return the types of the items if a type holds nothing but lists of any length, None or a bool, else nothing."""
    found = []
    for kind in _kinds(hint):
        origin, arguments = get_origin(kind), get_args(kind)
        if kind in (NoneType, bool):
            continue
        if not arguments or not (origin in LISTS or (origin is tuple and arguments[1:] == (...,))):
            return []
        found.append(arguments[0])
    return found


def _kinds(hint: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the one type."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
