"""Paths as users write them: ``~`` is expanded, and what no file system can hold is refused before it is used."""

import os
from pathlib import Path

from itda_lightning.errors import InputError

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


def is_directory(text: str | Path) -> bool:
    """Return True if a name that may be a path, or something else such as a name on the hub, is a directory."""
    try:
        return user_path(text).is_dir()
    except InputError:
        return False
