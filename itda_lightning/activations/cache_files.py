"""The digest of a cache: ``state.json``, which is written last, covers the files that tell what the activations are."""

import json
from pathlib import Path

from itda_lightning.errors import InputError
from itda_lightning.machine.checksums import CHECKSUMS, whole_checksums
from itda_lightning.machine.digests import DamagedError, Signature, check_signed

STATE = "state.json"
COVERED = ("sources.safetensors", "cache.json", "dataset_info.json", CHECKSUMS)


def check_facts(directory: Path) -> Signature:
    """Compare the digest of a finished cache, if it has one; the activations have checksums of their own.

    Raises InputError for damaged or missing files, and OSError or ValueError if ``state.json`` is missing or no JSON.
    """
    raw = (directory / STATE).read_bytes()
    json.loads(raw)
    try:
        return check_signed(raw, covered_by(directory))
    except (DamagedError, FileNotFoundError) as error:
        whole_checksums(directory, [path.name for path in directory.glob("*.arrow")])
        raise InputError(
            f"{directory / STATE} is damaged, or a file that its digest covers ({', '.join(COVERED)}): remove {STATE} "
            "and run again; nothing is harvested again"
        ) from error


def covered_by(directory: Path) -> list[Path]:
    """Return the files that the digest in ``state.json`` covers, too."""
    return [directory / name for name in COVERED]
