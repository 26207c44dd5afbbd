"""Check where results are written: regular files are replaced, devices written into, all else is refused in time."""

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from itda_lightning.errors import InputError


def check_output(path: Path) -> bool:
    """Check that a file can be written, before the work that fills it; return True for a device or an open pipe.

    Raises:
        InputError: a directory, a link to a file, a FIFO, a disk; a place that is not writable.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        _check_place(path)
        return False
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _refused(path, str(error.strerror if isinstance(error, OSError) else error)) from error
    if stat.S_ISLNK(mode):
        target = path.readlink()
        try:
            mode = path.stat().st_mode
        except OSError:
            mode = stat.S_IFLNK
        if stat.S_ISFIFO(mode) and "pipe:[" in os.path.realpath(path):  # /dev/stdout, >(...) of a shell
            return True
        if not stat.S_ISCHR(mode):
            raise InputError(f"{path} is a link to {target}, which would be replaced by a file: give {target} itself")
    if stat.S_ISREG(mode):
        _check_place(path)
        return False
    if stat.S_ISDIR(mode):
        raise _refused(path, os.strerror(errno.EISDIR))
    if not stat.S_ISCHR(mode):  # a FIFO that nobody reads would be waited for, for ever
        raise InputError(f"{path} is a FIFO, a disk or a socket, where results are not written: choose another place")
    if not os.access(path, os.W_OK):
        raise _refused(path, os.strerror(errno.EACCES))
    return True


def write_into_stream(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file and copy it into a device or pipe, which stays what it is."""
    with tempfile.TemporaryDirectory() as place:
        content = Path(place) / "content"
        write(content)
        descriptor = os.open(path, os.O_WRONLY | os.O_NOCTTY)
        with content.open("rb") as source, os.fdopen(descriptor, "wb") as stream:
            shutil.copyfileobj(source, stream)


def make_writable_directory(directory: Path) -> None:
    """Make a directory that results are written into, unless it exists. Raises OSError if it cannot be written."""
    directory.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=directory).close()


def _check_place(path: Path) -> None:
    """Check the directory that a file is to appear in, or the nearest one above that exists."""
    try:
        parent = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    except ValueError as error:
        raise _refused(path, str(error)) from error
    if not parent.is_dir():
        raise _refused(path, os.strerror(errno.ENOTDIR))
    if not os.access(parent, os.W_OK | os.X_OK):
        raise _refused(path, os.strerror(errno.EACCES))


def _refused(path: Path, reason: str) -> InputError:
    return InputError(f"not permitted while writing {path} ({reason}): choose another place")
