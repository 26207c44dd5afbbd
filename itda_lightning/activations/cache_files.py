"""Check and find caches by the files that say what they hold: ``cache.json``, and ``state.json``, written last."""

import json
from pathlib import Path
from typing import Any

from itda_lightning.errors import InputError
from itda_lightning.machine.checksums import CHECKSUMS, whole_checksums
from itda_lightning.machine.digests import DamagedError, Signature, check_signed

STATE, SETTINGS = "state.json", "cache.json"
COVERED = ("sources.safetensors", SETTINGS, "dataset_info.json", CHECKSUMS)


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


def with_more_hook_points(root: Path, settings: dict[str, Any]) -> Path | None:
    """Return a finished cache below ``root`` of these settings, but of more hook points; None if there is none."""
    for file in sorted(root.glob(f"*/{SETTINGS}")):
        try:
            found = json.loads(file.read_bytes())
            more = set(found["hook_names"]) >= set(settings["hook_names"])
            if more and found | {"hook_names": settings["hook_names"]} == settings and (file.parent / STATE).exists():
                return file.parent
        except (OSError, ValueError, LookupError, TypeError):  # damaged, or not a cache
            continue
    return None
