"""Write files that appear whole or not at all, so that a kill or a full disk never leaves half a result."""

import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from itda_lightning.errors import InputError
from itda_lightning.machine.digests import signed_json
from itda_lightning.machine.output_files import check_output, write_into_stream
from itda_lightning.machine.part_files import part_of, remove_parts


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

    ``write`` gets the path of an empty file that only this call knows. The result has the permissions that the umask
    leaves. What killed processes left in the directory is removed. A device or pipe is written into.

    Raises:
        InputError: a path that ``check_output`` refuses, or a full disk; it then still holds what it held before.
    """
    with explained(path, "writing"):
        if check_output(path):
            write_into_stream(path, write)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_parts(path.parent, of=path.name)
        with part_of(path) as temporary:
            mode = _make(temporary)
            try:
                write(temporary)
                _settle(temporary, mode)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)


def _make(file: Path) -> int:
    """Make an empty file that was not there, not even as a link, and return its permissions."""
    descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY, 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)


def _settle(file: Path, mode: int) -> None:
    """Force a file to disk and set its permissions: safetensors writes files that only their owner may read."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        if stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
            os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Mapping[str, Any] | list[Any], signed_with: Sequence[Path] | None = None) -> None:
    """Write JSON in one step. NaN and infinities are refused: they are not JSON. Raises like ``write_file``.

    ``signed_with``: files that its digest covers, too (``digests.py``); () for the JSON alone, None for no digest.
    """
    if signed_with is None:
        text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)
    else:
        assert isinstance(content, Mapping), "a list has no entry for a digest"
        text = signed_json(content, signed_with)
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text in one step. Raises like ``write_file``."""
    write_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary directory, which becomes ``path`` when the block ends without an error.

    Files in it get the permissions that the umask leaves. What killed processes left beside ``path`` is removed.

    Raises:
        InputError: ``path`` exists already, its parent is not writable or the disk is full.
    """
    with explained(path, "writing"):
        if os.path.lexists(path):
            raise InputError(f"{path} exists already: choose another path or remove it first, nothing is overwritten")
        check_output(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_parts(path.parent, of=path.name)
        with part_of(path) as temporary:
            temporary.mkdir()
            mode = stat.S_IMODE(temporary.stat().st_mode) & 0o666
            try:
                yield temporary
                for file in temporary.rglob("*"):
                    if file.is_file() and not file.is_symlink():
                        file.chmod(mode)
                temporary.replace(path)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
