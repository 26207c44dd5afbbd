"""Read the cost of a loaded entry where it was recorded: in its metadata, its run, or SAELens's run."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from itda_lightning.errors import InputError
from itda_lightning.evaluation.entries import Entry
from itda_lightning.fitting.run_directory import DICTIONARIES, METRICS, is_run
from itda_lightning.machine.digests import DamagedError, check_signed
from itda_lightning.results.comparison import Cost

# The settings of a training run that SAELens writes beside an SAE.
RUNNER = "runner_cfg.json"


def known_of(entry: Entry, place: Path) -> tuple[Cost, Sequence[Sequence[Any]]]:
    """Return the cost and the curve of an entry loaded from ``place``, as far as they are recorded."""
    metadata: dict[str, Any] = {} if entry.dictionary is None else entry.dictionary.metadata
    facts: dict[str, Any] = dict(entry.sae.cfg.metadata.get("training") or {})
    if "activations_seen" in metadata:
        seen = metadata["activations_seen"]
        facts |= {"activations_seen": seen, "activations_read": seen}
        facts["curve"] = [(point["seen"], point["fvu"]) for point in metadata.get("validation") or ()]
    for file in cost_files(place):
        recorded = _read(file)
        found = _of_fit(recorded) if file.name == METRICS else _of_training(recorded, place)
        facts |= {name: value for name, value in found.items() if facts.get(name) is None}
    names = ("seconds", "activations_seen", "activations_read", "peak_bytes")
    return Cost(**{name: facts.get(name) for name in names}), facts.get("curve", ())


def cost_files(place: Path) -> list[Path]:
    """Return the files that record what an entry cost: of the run of a dictionary, and of SAELens's training."""
    run = place.parent.parent if place.parent.name == DICTIONARIES else place
    files = [run / METRICS] if is_run(run) else []
    return [file for file in (*files, place / RUNNER) if file.is_file()]


def _read(file: Path) -> dict[str, Any]:
    try:
        raw = file.read_bytes()
        check_signed(raw)
        content = json.loads(raw)
    except DamagedError as error:
        raise InputError(f"{file} is damaged ({error}): fit again, or remove it to leave its costs out") from error
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _of_fit(metrics: dict[str, Any]) -> dict[str, float]:
    """Return the seconds of a fit of one hook point, without its harvest; nothing of one that was resumed."""
    seconds: Any = metrics.get("seconds")
    hook_points = metrics.get("hook_points")
    if not isinstance(seconds, dict) or not isinstance(hook_points, dict) or len(hook_points) != 1:
        return {}  # what one of several hook points took is not recorded
    (figures,) = hook_points.values()
    seen = figures.get("activations_seen") if isinstance(figures, dict) else None
    if seconds.get("growth_activations", seen) != seen:
        return {}
    times = [seconds.get(name) for name in ("all", "harvest", "growth")]
    whole, harvest, growth = (float(time) if isinstance(time, int | float) else math.nan for time in times)
    return {"seconds": whole - harvest} if growth > 0 and whole > harvest >= 0 else {}


def _of_training(settings: dict[str, Any], place: Path) -> dict[str, int]:
    """Return the tokens of a training run of SAELens, or of its checkpoint, whose directory names its tokens."""
    tokens = settings.get("training_tokens")
    if not isinstance(tokens, int) or tokens < 1:
        return {}
    named = re.fullmatch(r"(?:final_)?(\d+)", place.name)
    return {"activations_seen": min(int(named[1]), tokens) if named else tokens}
