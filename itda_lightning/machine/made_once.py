"""Compute something once, into a directory named by the hash of all that decides it."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from itda_lightning.errors import InputError
from itda_lightning.machine.atomic_files import new_directory


def hash_of(identity: Any) -> str:
    """Return 16 hex digits that stand for a JSON value; the order of its keys does not matter."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def made_once(place: Path, make: Callable[[Path], object]) -> Path:
    """Return ``place``, named by ``hash_of`` all that decides its content, which ``make`` fills unless it exists.

    It appears whole or not at all. If another process makes it at the same time, the first to finish wins.
    Raises like ``new_directory`` and ``make``.
    """
    if not place.exists():
        try:
            with new_directory(place) as directory:
                make(directory)
        except InputError:
            if not place.exists():
                raise
    return place
