"""Paths as users write them: ``~`` is expanded, and what no file system can hold is refused before it is used.

What is saved says ``~`` for the home directory: it tells no name of a user, and is right for another one's.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from itda_lightning.errors import InputError

Facts = TypeVar("Facts")
LONGEST_NAME, LONGEST_PATH = 255, 4095  # bytes; the limits of Linux's file systems and system calls


def user_path(text: str | Path, what: str = "the path") -> Path:
    """Return a path with ``~`` expanded.

    Args:
        text: as the user gave it; nothing need exist there.
        what: names it in a refusal.

    Raises:
        InputError: it is empty, has a NUL character, a part of more than 255 bytes or a home directory of an unknown
            user.

    Example:
        >>> from itda_lightning.machine.paths import user_path
        >>> user_path("runs/base").name
        'base'
    """
    shown = ascii(str(text)[:80])
    if not str(text).strip():
        raise InputError(f"{what} is empty: give a path")
    if "\0" in str(text):
        raise InputError(f"{what} {shown} has a NUL character, which no path can have: remove it")
    try:
        encoded = os.fsencode(text)
        expanded = Path(text).expanduser()
    except (RuntimeError, UnicodeError) as error:
        raise InputError(f"{what} {shown} cannot be read ({error}): give the directory itself") from error
    if len(encoded) > LONGEST_PATH or any(len(os.fsencode(part)) > LONGEST_NAME for part in expanded.parts):
        raise InputError(f"{what} {shown}... has a name of more than {LONGEST_NAME} bytes: give a shorter one")
    return expanded


def is_meant_as_path(text: str | Path) -> bool:
    """Return True for a name that is a path by its form, and none of the hub: absolute, in ``.`` or ``~``, or deep.

    Example:
        >>> from itda_lightning.machine.paths import is_meant_as_path
        >>> [is_meant_as_path(name) for name in ("./mine", "/data/mine", "runs/a/b", "owner/name", "gpt2")]
        [True, True, True, False, False]
    """
    return str(text).startswith(("/", "~", "./", "../")) or str(text).strip("/").count("/") > 1


def without_home(facts: Facts) -> Facts:
    """Return a path, or JSON with paths in it, with ``~`` for the user's home directory.

    Example:
        >>> from pathlib import Path
        >>> from itda_lightning.machine.paths import without_home
        >>> without_home({"model": str(Path.home() / "models" / "base"), "dataset": "c4"})
        {'model': '~/models/base', 'dataset': 'c4'}
    """
    changed: Any = facts
    if isinstance(facts, Mapping):
        changed = {without_home(name): without_home(value) for name, value in facts.items()}
    elif isinstance(facts, list | tuple):
        changed = [without_home(value) for value in facts]
    elif isinstance(facts, str):
        for home in _homes():
            if facts == home or facts.startswith(f"{home}/"):
                changed = f"~/{facts[len(home) :].lstrip('/')}"
    return changed


def text_without_home(text: str) -> str:
    """Return text in which every path in the user's home directory begins with ``~``."""
    for home in _homes():
        text = re.sub(rf"(?<![\w.~/-]){re.escape(home)}(?![\w-]|\.\w)/?", "~/", text)
    return text


def _homes() -> list[str]:
    """Return the home directory as it is called and as it is; none for the root, or without one."""
    try:
        home = Path.home()
    except RuntimeError:
        return []
    return [str(path) for path in dict.fromkeys([home, home.resolve()]) if len(path.parts) > 1]


def is_here(text: str | Path) -> bool:
    """Return True if a name that may be a path, or something else such as a name on the hub, is on this disk."""
    try:
        return user_path(text).exists()
    except (InputError, OSError):
        return False


def is_directory(text: str | Path) -> bool:
    """Return True if a name that may be a path, or something else such as a name on the hub, is a directory."""
    try:
        return user_path(text).is_dir()
    except InputError:
        return False
