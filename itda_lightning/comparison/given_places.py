"""Compare what is already there: entries, data and directory from paths and releases alone (``itda compare A B``)."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from itda_lightning.comparison.comparison_settings import EntrySettings
from itda_lightning.errors import InputError
from itda_lightning.evaluation.data_of import check_settings, own_cache
from itda_lightning.evaluation.entries import Entry, load_entry
from itda_lightning.fitting.run_directory import DICTIONARIES
from itda_lightning.machine.paths import user_path

LONGEST_NAME = 60  # of a directory
MODEL_AND_TEXT = ("model", "dataset")
# Remedies of what loads an entry -> those of this command.
REMEDIES = {
    "leave out --hook_name or correct it": "compare entries of one hook point",
    "give --hook_name": "give --data.hook_names",
    "give hook_name": "give --data.hook_names",
}


def entries_of(places: Sequence[str]) -> list[EntrySettings]:
    """Return an entry that loads each place, called by as few of the last parts of its path as tell them apart.

    Raises:
        InputError: a place given twice.
    """
    parts = [_parts(place) for place in places]
    for n in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(each[-n:]) for each in parts]
        if len(set(names)) == len(names):
            return [EntrySettings(name, load=place) for name, place in zip(names, places, strict=True)]
    if places:
        twice = next(place for place, each in zip(places, parts, strict=True) if parts.count(each) > 1)
        raise InputError(f"{twice} is given twice: an entry is compared with others")
    return []


def directory_of(entries: Sequence[EntrySettings]) -> str:
    """Return the directory of a comparison of these entries, below ``runs``."""
    name = re.sub(r"[^a-z0-9]+", "-", "-".join(entry.name for entry in entries).lower()).strip("-")
    return str(Path("runs") / f"compare-{name[:LONGEST_NAME].rstrip('-') or 'entries'}")


def recorded_data(places: Sequence[str], hook_names: Sequence[str]) -> dict[str, Any]:
    """Return the settings of the data of the first place that records them, at one hook point.

    They are for this machine's devices and, if none is recorded, for this user's cache.

    Args:
        places: paths or releases; all are loaded until one records its data.
        hook_names: the hook point to compare at; empty for that of the first place that has one only.

    Raises:
        InputError: as ``load_entry``; several hook points, or no place that records its data.
    """
    hook_name = hook_names[0] if hook_names else _hook_point(places)
    for place in places:
        entry = _load(place, hook_name)
        metadata = entry.sae.cfg.metadata if entry.dictionary is None else entry.dictionary.metadata
        settings = metadata.get("data")
        if not isinstance(settings, dict) or "rows" in settings:  # those of arrays name no model and no text
            continue
        check_settings(settings)
        if not all(settings.get(name) for name in MODEL_AND_TEXT):
            continue
        cache = settings.get("cache_dir") or str(own_cache())
        return settings | {"hook_names": [hook_name], "device": "auto", "cache_dir": cache}
    raise InputError(
        f"nothing says which model and text to compare on, {' and '.join(places)} record none: give --data.model, "
        "--data.hook_names and --data.dataset, or --config with a data section"
    )


def _hook_point(places: Sequence[str]) -> str:
    """Return the hook point of the first place that has one only. Raises InputError as the first without."""
    refused: InputError | None = None
    for place in places:
        try:
            return str(_load(place).sae.cfg.metadata.hook_name)
        except InputError as error:
            refused = refused or error
    assert refused is not None
    raise refused


def _load(place: str, hook_name: str | None = None) -> Entry:
    """Load an entry as ``load_entry``; what it refuses names the options of this command."""
    try:
        return load_entry(place, hook_name)
    except InputError as error:
        text = str(error)
        for of_others, own in REMEDIES.items():
            text = text.replace(of_others, own)
        raise InputError(text) from error


def _parts(place: str) -> tuple[str, ...]:
    """Return the parts of a path that tell it from others; a release is one part."""
    path = user_path(place)
    if not path.exists():
        return (place,)
    parts = path.resolve().parts
    return parts[:-2] if parts[-2:-1] == (DICTIONARIES,) else parts
