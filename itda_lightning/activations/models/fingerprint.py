"""The fingerprint of a local model: a hash of its files, which for a large model is taken once and remembered."""

import contextlib
import json
import logging
from pathlib import Path

import xxhash

from itda_lightning.activations.bundled import cache_directory
from itda_lightning.machine.atomic_files import write_json

logger = logging.getLogger(__name__)

SUFFIXES = {".safetensors", ".bin", ".json"}
# Smaller models are read within seconds.
REMEMBERED_BYTES = 2**30


def directory_fingerprint(directory: Path) -> str:
    """A hash of names and contents of a model directory's files.

    That of a large model is remembered in the cache directory for as long as no file changes its size, its time or its
    place on the disk.
    """
    files = [file for file in sorted(directory.glob("*")) if file.suffix in SUFFIXES]
    states = {file.name: [(state := file.stat()).st_size, state.st_mtime_ns, state.st_ino] for file in files}
    size = sum(state[0] for state in states.values())
    name = xxhash.xxh3_64_hexdigest(str(directory.absolute()).encode())
    remembered = cache_directory() / "fingerprints" / f"{name}.json"
    if size >= REMEMBERED_BYTES:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(remembered.read_text(encoding="utf-8"))
            if known["files"] == states:
                return str(known["fingerprint"])
        logger.info("reading the %.3g GB of %s once to tell it from other models", size / 1e9, directory)
    digest = xxhash.xxh3_128()
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while chunk := stream.read(2**24):
                digest.update(chunk)
    if size >= REMEMBERED_BYTES:
        write_json(remembered, {"files": states, "fingerprint": digest.hexdigest()})
    return digest.hexdigest()
