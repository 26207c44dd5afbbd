"""Rows of a comparison on disk: a later run takes over those of the same identity."""

import logging
import re
from pathlib import Path

from itda_lightning.errors import InputError
from itda_lightning.machine.atomic_files import write_text
from itda_lightning.results.as_json import from_json, to_json
from itda_lightning.results.comparison import Row

logger = logging.getLogger(__name__)

ROWS = "rows"


def write_row(row: Row, directory: Path) -> None:
    """Write a row into the directory of a comparison, named by its entry and its identity."""
    slug = re.sub(r"[^a-z0-9]+", "-", row.name.lower()).strip("-")[:60] or "entry"
    write_text(directory / ROWS / f"{slug}-{row.identity}.json", to_json(row))


def read_row(directory: Path, identity: str) -> Row | None:
    """Return the row of that identity, under whatever name its entry had, or None."""
    for path in (directory / ROWS).glob(f"*-{identity}.json"):
        try:
            row = from_json(path.read_text(encoding="utf-8"), Row)
        except (InputError, UnicodeDecodeError) as error:
            logger.warning("%s cannot be taken over (%s): its entry is measured again", path, error)
            continue
        logger.info("%s: taken over from %s", row.name, path)
        return row
    return None
