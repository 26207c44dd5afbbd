"""Digests of files, by which damage is noticed: each is kept in a file and covers its other bytes and its companions.

A JSON file that is *signed* ends with an entry ``itda_lightning.digest``: the XXH3 checksum (128 bits) of all bytes of
the file but its own 32 hex digits, and of the names and bytes of the files that belong to it, such as the tensors of a
dictionary. It protects from damage and from files that were mixed up, not from intent. A program that loads such a file
and saves it again leaves the entry out, so nothing is refused that was rewritten on purpose; who changes a file by hand
can take the entry out, too. Files of earlier versions have none: they are read with one line of warning.
"""

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import xxhash

from itda_lightning.errors import InputError

logger = logging.getLogger(__name__)

DIGEST = "itda_lightning.digest"
DIGITS = 32
BLANK = f"xxh128:{'0' * DIGITS}"
# In a checkpoint the JSON is itself a string in JSON, with its quotes escaped.
WHOLE = re.compile(rb'\\?"itda_lightning\.digest\\?": ?\\?"xxh128:([0-9a-f]{32})\\?"')
TRACES = (DIGEST.encode(), b"xxh128:")  # one flipped bit leaves one of them
LAST_BYTES = 160  # of a JSON file: where its digest stands
PIECE = 2**22

Signature = Literal["whole", "none"]


class DamagedError(InputError):
    """A file whose digest is not that of its content."""


def signed_json(
    content: Mapping[str, Any],
    companions: Sequence[Path] = (),
    *,
    indent: int | None = 1,
    ascii_only: bool = False,
) -> str:
    """Return JSON that ends with its digest, which covers the companions, too. Raises ValueError for NaN."""
    entries = {name: value for name, value in content.items() if name != DIGEST} | {DIGEST: BLANK}
    text = json.dumps(entries, indent=indent, allow_nan=False, ensure_ascii=ascii_only)
    raw = text.encode()
    hole = raw.rindex(BLANK.encode()) + len(BLANK) - DIGITS
    digest = _digest(raw[:hole], raw[hole + DIGITS :], None, companions)
    return raw[:hole].decode() + digest + raw[hole + DIGITS :].decode()


def check_signed(raw: bytes, companions: Sequence[Path] = ()) -> Signature:
    """Compare the digest at the end of a JSON file, if it has one. Raises DamagedError."""
    hole = _hole(raw[-LAST_BYTES:])
    if hole is None:
        return "none"
    hole += max(len(raw) - LAST_BYTES, 0)
    if _digest(raw[:hole], raw[hole + DIGITS :], None, companions) != raw[hole : hole + DIGITS].decode():
        raise DamagedError("its digest is not that of its content")
    return "whole"


def sign_in_place(path: Path, head_bytes: int) -> None:
    """Fill in the digest of a file that has the entry ``DIGEST: BLANK`` within its first bytes."""
    hole, digest = _of_file(path, head_bytes)
    assert hole is not None, "the file has no room for its digest"
    with path.open("r+b") as stream:
        stream.seek(hole)
        stream.write(digest.encode())


def check_in_place(path: Path, head_bytes: int) -> Signature:
    """Compare the digest within the first bytes of a file, if it has one. Raises DamagedError."""
    hole, digest = _of_file(path, head_bytes)
    if hole is None:
        return "none"
    with path.open("rb") as stream:
        stream.seek(hole)
        if stream.read(DIGITS) != digest.encode():
            raise DamagedError("its digest is not that of its content")
    return "whole"


def warn_unsigned(path: Path | str) -> None:
    """Log one line about a file without a digest."""
    logger.warning("%s has no digest (an earlier version or another program wrote it): damage would not show", path)


def _hole(part: bytes) -> int | None:
    """Return where the digits of the digest stand, None without one. Raises DamagedError for half an entry."""
    entries = list(WHOLE.finditer(part))
    if entries:
        return entries[-1].start(1)
    if any(trace in part for trace in TRACES):
        raise DamagedError("the entry of its digest is damaged")
    return None


def _of_file(path: Path, head_bytes: int) -> tuple[int | None, str]:
    with path.open("rb") as stream:
        hole = _hole(stream.read(head_bytes))
        if hole is None:
            return None, ""
        stream.seek(0)
        before = stream.read(hole)
        return hole, _digest(before, stream.read(head_bytes)[DIGITS:], stream, ())


def _digest(before: bytes, after: bytes, rest: Any, companions: Sequence[Path]) -> str:
    """Return the hex digest of the parts around the digits, the rest of a stream, and further files."""
    digest = xxhash.xxh3_128(before)
    digest.update(after)
    while rest is not None and (piece := rest.read(PIECE)):
        digest.update(piece)
    for companion in companions:
        digest.update(companion.name.encode())
        digest.update(file_checksum(companion).encode())
    return digest.hexdigest()


def file_checksum(path: Path) -> str:
    """Return the hex digits that ``xxhsum -H2`` gives a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, xxhash.xxh3_128).hexdigest()


def read_signed_json(path: Path, remedy: str, companions: Sequence[Path] = ()) -> dict[str, Any]:
    """Read a JSON object, compare its digest, and return it without that; one without a digest is warned of.

    Raises InputError, which ends with the remedy, for a file that is missing, damaged or no JSON object.
    """
    try:
        raw = path.read_bytes()
        content = json.loads(raw)
        signature = check_signed(raw, companions)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged or cannot be read ({reason(error)}): {remedy}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged: it holds no JSON object; {remedy}")
    if signature == "none":
        warn_unsigned(path)
    return {name: value for name, value in content.items() if name != DIGEST}


def reason(error: BaseException) -> str:
    """Return one line about an error of reading: for a file of another user's that its owner has to share it."""
    if isinstance(error, PermissionError):
        return "permission denied: it is another user's, who can share it by chmod a+r"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
