"""Write files that appear whole or not at all, so that a kill or a full disk never leaves half a result."""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from safetensors import SafetensorError

from itda_lightning.errors import InputError


@contextmanager
def explained(path: Path, action: str) -> Iterator[None]:
    """Turn errors of the operating system into an ``InputError`` that names the path and the remedy."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError):
            number = error.errno or 0
        elif mentioned := re.search(r"\(os error (\d+)\)", str(error)):  # safetensors has it in its text only
            number = int(mentioned[1])
        else:
            raise
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"no space left while {action} {path}: free some space or choose another place; "
                "what was written before is untouched"
            ) from error
        if number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
            raise InputError(
                f"not permitted while {action} {path} ({os.strerror(number)}): choose another place"
            ) from error
        raise InputError(f"failed while {action} {path}: {error}") from error


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then move it to ``path`` in one step.

    Raises:
        InputError: the directory is not writable or the disk is full; ``path`` then still holds what it held before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with explained(path, "writing"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def remove_parts(directory: Path) -> None:
    """Remove the temporary files that killed processes left in a directory."""
    for part in directory.glob(".*.part"):
        number = part.name.split(".")[-2]
        if number.isdigit() and not psutil.pid_exists(int(number)):
            part.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any] | list[Any]) -> None:
    """Write JSON in one step. NaN and infinities are refused: they are not JSON. Raises like ``write_file``."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False))


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text in one step. Raises like ``write_file``."""
    write_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary directory, which becomes ``path`` when the block ends without an error.

    Raises:
        InputError: ``path`` exists already, its parent is not writable or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with explained(path, "writing"):
        if path.exists():
            raise InputError(f"{path} exists already: choose another path or remove it first, nothing is overwritten")
        # Left by a killed process, which in a container may have had the same number.
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
