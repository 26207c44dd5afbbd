"""Names of temporary files: nobody can foresee them, and what killed processes left under them is found and removed."""

import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import psutil
import xxhash

SHOWN = 60  # characters of the final name in the temporary one, which may have 255 bytes
# .NAME.MACHINE-PROCESS-TOKEN.part; earlier versions wrote .NAME.PROCESS.part.
OWN = re.compile(r"\..*\.([0-9a-f]{8})-(\d+)-([0-9a-f]{16})\.part", re.DOTALL)
EARLIER = re.compile(r"\.(.*)\.(\d+)\.part", re.DOTALL)
# Another machine's processes are not seen from here: what they have not written to for so long is left over.
FORGOTTEN_SECONDS = 7 * 24 * 3600
CLOCK_SECONDS = 60  # by which the start of a process and the time of a file may be off

_in_use: set[str] = set()


def is_part(path: Path) -> bool:
    """Return True for the name of a temporary file or directory, which is never read as a finished one."""
    return path.name.startswith(".") and path.name.endswith(".part")


@contextmanager
def part_of(path: Path) -> Iterator[Path]:
    """Yield a new name beside ``path``; while the block runs, ``remove_parts`` of this process leaves it alone."""
    token = secrets.token_hex(8)
    _in_use.add(token)
    try:
        yield path.with_name(f".{path.name[:SHOWN]}.{_machine()}-{os.getpid()}-{token}.part")
    finally:
        _in_use.discard(token)


def remove_parts(directory: Path, of: str | None = None) -> None:
    """Remove the temporary files and directories that killed processes left in a directory.

    Those of running processes stay, and those of other machines for a week. Names of earlier versions could be another
    program's: in a directory that is not this package's own, give the name ``of`` the file whose parts these may be.
    """
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith(".") and entry.name.endswith(".part"):
                with suppress(OSError):
                    _remove_if_left(Path(entry.path), of)


def _remove_if_left(part: Path, of: str | None) -> None:
    machine: str | None = None
    token = ""
    if match := OWN.fullmatch(part.name):
        machine, number, token = match[1], int(match[2]), match[3]
    elif (match := EARLIER.fullmatch(part.name)) and of in (None, match[1]):
        number = int(match[2])
    else:
        return
    written = part.lstat().st_mtime
    if machine not in (None, _machine()):
        left = time.time() - written > FORGOTTEN_SECONDS
    elif number == os.getpid():  # in a container, a killed process may have had the same number
        left = token not in _in_use
    else:
        left = not _runs_since(number, written)
    if left and part.is_dir() and not part.is_symlink():
        shutil.rmtree(part, ignore_errors=True)
    elif left:
        part.unlink(missing_ok=True)


def _runs_since(number: int, written: float) -> bool:
    """Return True if a process runs that is old enough to have written at that time."""
    try:
        return psutil.Process(number).create_time() <= written + CLOCK_SECONDS
    except (psutil.NoSuchProcess, OverflowError):
        return False
    except psutil.AccessDenied:
        return True


@cache
def _machine() -> str:
    """Return 8 hex digits of the machine, or of the container with numbers of processes of its own."""
    try:
        numbers = os.readlink("/proc/self/ns/pid")  # noqa: PTH115  it is no path
    except OSError:
        numbers = ""
    return xxhash.xxh32_hexdigest(f"{socket.gethostname()} {numbers}".encode())
