"""The checksums of a directory's files, in the format of ``xxhsum -c``: a line each, added when the file is whole."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from itda_lightning.errors import InputError
from itda_lightning.machine.atomic_files import explained, write_text

CHECKSUMS = "checksums.xxh128"


def read_checksums(directory: Path) -> dict[str, str]:
    """Return the checksums of files by their names; lines that a kill cut off are left out."""
    try:
        lines = (directory / CHECKSUMS).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    parts = [line.split("  ") for line in lines]
    return {part[1]: part[0] for part in parts if len(part) == 2 and len(part[0]) == 32}


def write_checksums(directory: Path, checksums: Mapping[str, str]) -> None:
    """Write the checksums of files, in one step. Raises like ``write_text``."""
    write_text(directory / CHECKSUMS, _text(checksums))


def add_checksums(directory: Path, checksums: Mapping[str, str]) -> None:
    """Add the lines of finished files; a kill leaves at most half a line, which is ignored."""
    path = directory / CHECKSUMS
    with explained(path, "writing"):
        # In a directory that others write to, a link may have been planted here.
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        with os.fdopen(descriptor, "a", encoding="utf-8") as file:
            file.write(_text(checksums))
            file.flush()
            os.fsync(file.fileno())


def are_whole(directory: Path) -> bool:
    """Return True if the file of checksums has the form in which it was written."""
    return (directory / CHECKSUMS).read_bytes() == _text(read_checksums(directory)).encode()


def whole_checksums(directory: Path, needed: Iterable[str]) -> dict[str, str]:
    """Return the checksums of a finished directory, one for each needed file; none as a foreign tool leaves it.

    Raises InputError for a file of checksums that is not as it was written.
    """
    checksums = read_checksums(directory)
    if (directory / CHECKSUMS).exists() and not (are_whole(directory) and set(checksums) == set(needed)):
        raise InputError(
            f"a file in {directory} has lost its line, or is damaged (its checksum is not that in {CHECKSUMS}): remove "
            f"state.json and {CHECKSUMS} there and run again, which harvests the rows again"
        )
    return checksums


def _text(checksums: Mapping[str, str]) -> str:
    return "".join(f"{checksum}  {name}\n" for name, checksum in checksums.items())
