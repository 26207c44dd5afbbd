"""Find the functions that do the work of methods in rooms above, which are imported when a method is first called."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

# Name of a method -> the function that does its work, with its module. The package, which knows all rooms, fills it in.
WORK: dict[str, str] = {}


def work_of(method: str) -> Callable[..., Any]:
    """Return the function that does the work of a method."""
    module, _, name = WORK[method].rpartition(".")
    work: Callable[..., Any] = getattr(import_module(module), name)
    return work
