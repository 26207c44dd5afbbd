"""Read the cost of a loaded entry where it was recorded: in its metadata, its run, or SAELens's run."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from itda_lightning.errors import InputError
from itda_lightning.evaluation.entries import EXPORT_CONFIG, Entry
from itda_lightning.fitting.loading import downloaded
from itda_lightning.fitting.run_directory import DICTIONARIES, METRICS, is_run
from itda_lightning.machine.digests import DamagedError, check_signed
from itda_lightning.results.comparison import Cost
from itda_lightning.saelens.released import cached_files

# The settings of a training run that SAELens writes beside an SAE, or above the directories of several that it trained
# together; versions before 6 wrote them into the SAE's own configuration.
RUNNER = "runner_cfg.json"
OF_TRAININGS = (RUNNER, EXPORT_CONFIG)
TOKENS = ("training_tokens", "total_training_tokens")


def known_of(entry: Entry, reference: str) -> tuple[Cost, Sequence[Sequence[Any]]]:
    """Return the cost and the curve of an entry loaded from a path or a release, as far as they are recorded."""
    place = downloaded(reference)
    metadata: dict[str, Any] = {} if entry.dictionary is None else entry.dictionary.metadata
    facts = training_of(entry)
    if "activations_seen" in metadata:
        seen = metadata["activations_seen"]
        facts |= {"activations_seen": seen, "activations_read": seen}
        facts["curve"] = [(point["seen"], point["fvu"]) for point in metadata.get("validation") or ()]
    files = cost_files(place) if place.exists() else cached_files(reference, OF_TRAININGS)
    for file in files:
        recorded = _read(file)
        found = _of_fit(recorded) if file.name == METRICS else _of_training(recorded, file.parent.name)
        facts |= {name: value for name, value in found.items() if facts.get(name) is None}
    names = ("seconds", "activations_seen", "activations_read", "peak_bytes")
    return Cost(**{name: facts.get(name) for name in names}), facts.get("curve", ())


def training_of(entry: Entry) -> dict[str, Any]:
    """Return what an SAE that was trained, or computed, by this package records of it; of others nothing."""
    training = entry.sae.cfg.metadata.get("training")
    return dict(training) if isinstance(training, dict) and isinstance(training.get("settings", {}), dict) else {}


def cost_files(place: Path) -> list[Path]:
    """Return the files that record what an entry cost: of the run of a dictionary, and of SAELens's training."""
    run = place.parent.parent if place.parent.name == DICTIONARIES else place
    files = [run / METRICS] if is_run(run) else []
    above = place.parent / RUNNER
    files += [place / RUNNER, *([above] if _is_of(above, place.name) else []), place / EXPORT_CONFIG]
    return [file for file in files if file.is_file()]


def _is_of(runner: Path, sae: str) -> bool:
    """Return True if the settings of a run that trained several SAEs name this one."""
    saes = _read(runner).get("saes") if runner.is_file() else None
    return isinstance(saes, dict) and sae in saes


def _read(file: Path) -> dict[str, Any]:
    try:
        raw = file.read_bytes()
        if file.name != EXPORT_CONFIG:  # whose digest is of the weights, too, and was checked when they were loaded
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


def _of_training(settings: dict[str, Any], directory: str) -> dict[str, int]:
    """Return the tokens of a training run of SAELens, or of its checkpoint, whose directory names its tokens."""
    tokens = next((settings[name] for name in TOKENS if settings.get(name) is not None), None)
    if not isinstance(tokens, int) or tokens < 1:
        return {}
    named = re.fullmatch(r"(?:final_)?(\d+)", directory)
    return {"activations_seen": min(int(named[1]), tokens) if named else tokens}
