"""The files of an SAE on disk, ``cfg.json`` and ``sae_weights.safetensors``: a digest of both, which SAELens drops.

It is an entry of ``cfg.json`` beside SAELens's fields, which reading ignores. An SAE that SAELens loads and saves
again, changed or not, has none: it is rewritten on purpose, so it loads, with one line of warning.
"""

import json
from pathlib import Path
from typing import Any

from sae_lens import SAE
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME

from itda_lightning.errors import InputError
from itda_lightning.machine.atomic_files import write_text
from itda_lightning.machine.digests import DamagedError, Signature, check_signed, signed_json, warn_unsigned
from itda_lightning.saelens.sae_metadata import KEY

SAE_FILES = (SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME)


def write_sae(sae: SAE[Any], directory: Path) -> None:
    """Write an SAE as SAELens does, with the digest. Raises OSError and SafetensorError of a full disk."""
    sae.save_model(directory)
    path = directory / SAE_CFG_FILENAME
    content = json.loads(path.read_text(encoding="utf-8"))
    # SAELens reads in the encoding of the system.
    write_text(path, signed_json(content, [directory / SAE_WEIGHTS_FILENAME], ascii_only=True))


def check_sae_files(directory: Path, warn: bool = True) -> Signature:
    """Compare the digest of an SAE's files, if they have one; ``warn`` if this package wrote them without one.

    Raises InputError for files that are not those that were written.
    """
    path = directory / SAE_CFG_FILENAME
    raw = path.read_bytes()
    try:
        signature = check_signed(raw, [directory / SAE_WEIGHTS_FILENAME])
    except DamagedError as error:
        raise InputError(
            f"{directory}: {error}, so {SAE_CFG_FILENAME} or {SAE_WEIGHTS_FILENAME} was damaged or changed: export the "
            "dictionary again"
        ) from error
    if warn and signature == "none" and KEY in (json.loads(raw).get("metadata") or {}):
        warn_unsigned(path)
    return signature
