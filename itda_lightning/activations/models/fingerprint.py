"""Fingerprint a local model: hash its files, once for a large model."""

import contextlib
import json
import logging
from pathlib import Path

import xxhash
from humanize import naturalsize

from itda_lightning.activations.bundled import cache_directory
from itda_lightning.machine.atomic_files import write_json

logger = logging.getLogger(__name__)

SUFFIXES = {".safetensors", ".bin", ".json"}
# Fingerprints of smaller models are not stored: they are read within seconds.
REMEMBERED_BYTES = 2**30


def directory_fingerprint(directory: Path) -> str:
    """Return a hash of the names and contents of a model directory's files.

    For a large model it is stored in the cache directory, and valid until a file changes its size, time or inode.
    """
    files = [file for file in sorted(directory.glob("*")) if file.suffix in SUFFIXES]
    states = {file.name: [(state := file.stat()).st_size, state.st_mtime_ns, state.st_ino] for file in files}
    size = sum(state[0] for state in states.values())
    name = xxhash.xxh3_64_hexdigest(str(directory.absolute()).encode())
    stored = cache_directory() / "fingerprints" / f"{name}.json"
    if size >= REMEMBERED_BYTES:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(stored.read_text(encoding="utf-8"))
            if known["files"] == states:
                return str(known["fingerprint"])
        logger.info("reading the %s of %s once to fingerprint the model", naturalsize(size), directory)
    digest = xxhash.xxh3_128()
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while chunk := stream.read(2**24):
                digest.update(chunk)
    if size >= REMEMBERED_BYTES:
        write_json(stored, {"files": states, "fingerprint": digest.hexdigest()})
    return digest.hexdigest()
