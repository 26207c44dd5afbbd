"""In how many steps should the generalised pursuit take a code? Chosen on text and probes that no table reports.

    python -m benchmarks.quality.steps [--directory runs/steps] [--numbers '[2, 3, 4, 8]']

One fit for each number, all else by steps.yaml: grown, refined and measured with that number of steps. The text is
that of the comparisons without the documents held out there. Beside it stand the atoms of synthetic worlds of seeds
that no table reports. What is finished is not made again.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli

from benchmarks.bundled import DATASET, MODEL
from benchmarks.results import Study, describe, environment, table, write_results
from benchmarks.synthetic.rows import rows_of
from benchmarks.synthetic.scores import score
from benchmarks.synthetic.worlds import World
from itda_lightning.activations.bundled import resolve
from itda_lightning.activations.text.split import is_held_out
from itda_lightning.compare import main as compare
from itda_lightning.machine.atomic_files import write_text
from itda_lightning.pursuit import generalised
from itda_lightning.report.words.wording import show_estimate
from itda_lightning.results.as_json import read_results
from itda_lightning.results.comparison import Comparison, Estimate, Row
from itda_lightning.results.paired import paired_difference

HERE = Path(__file__).parent
# The share of documents that the comparisons hold out.
REPORTED = 0.05
ROW, SAMPLES, HELD_OUT = "unmixed, pruned", 65_536, 16_384
SCORES = {"f1": "F1", "mcc": "MCC", "ev": "EV", "l0": "L0"}
COLUMNS = ("l0", "fvu", "cossim", "ce_loss_increase", "kl_div_with_sae", "probing/k=1", "probing/k=16")


def unreported_text(directory: Path) -> Path:
    """Write the bundled text without the documents that the comparisons hold out, as JSON lines."""
    path = directory / "unreported.jsonl"
    lines = Path(resolve(DATASET)).read_text(encoding="utf-8").splitlines(keepends=True)
    write_text(path, "".join(line for line in lines if not is_held_out(json.loads(line)["text"], REPORTED)))
    return path


def row_of(steps: int, directory: Path, text: Path, options: list[str]) -> Row:
    """Fit and measure with that number of steps, in a directory of its own: results do not name the number."""
    default, generalised.STEPS = generalised.STEPS, steps
    try:
        place = directory / f"{steps}-steps"
        chosen = ["--data.dataset", str(text), "--directory", str(place), "--title", _name(steps)]
        if compare(["--config", str(HERE / "steps.yaml"), *chosen, *options]):
            raise SystemExit(f"the fit in {steps} steps failed")
    finally:
        generalised.STEPS = default
    (row,) = read_results(place / "comparison.json", Comparison).rows
    return row


def world_of(steps: int, directory: Path, seed: int) -> dict[str, Any]:
    """Return the scores of a row of the small world, whose samples are drawn once for all numbers of steps."""
    finished = directory / f"world-{seed}-{steps}-steps.json"
    if not finished.exists():
        drawn = directory / "worlds"
        place = World("small", seed, drawn)
        place.training(SAMPLES)
        own = directory / f"{steps}-steps" / "worlds"
        shutil.copytree(drawn, own, dirs_exist_ok=True)
        default, generalised.STEPS = generalised.STEPS, steps
        try:
            place = World("small", seed, own)
            sae, _ = rows_of(place)[ROW].sae(place, SAMPLES, seed)
            scores = score(sae, place, HELD_OUT)
        finally:
            generalised.STEPS = default
        write_text(finished, json.dumps({"steps": steps, "seed": seed, "row": ROW} | scores))
    kept: dict[str, Any] = json.loads(finished.read_text(encoding="utf-8"))
    return kept


def run(
    directory: str = "runs/steps",
    numbers: tuple[int, ...] = (2, 3, 4, 8),
    worlds: tuple[int, ...] = (10,),
    options: tuple[str, ...] = (),
    results: str = str(HERE / "results"),
) -> None:
    """Fit with each number of steps and write steps.json and steps.md.

    Args:
        directory: where the text and the fits are kept.
        numbers: of steps, among them today's.
        worlds: seeds of small worlds.
        options: further options of ``compare``, e.g. ``--data.cache_dir=PLACE``.
        results: directory of the results.
    """
    torch.set_num_threads(1)
    place = Path(directory)
    place.mkdir(parents=True, exist_ok=True)
    text = unreported_text(place)
    rows = {steps: row_of(steps, place, text, list(options)) for steps in numbers}
    today = rows[generalised.STEPS]
    study = Study("quality/steps", MODEL, None, "blocks.14.hook_resid_post", f"{DATASET}, unreported", 65_536, 0)
    result = {
        **describe(study),
        "tokens_hash": today.tokens_hash,
        "settings": today.settings,
        "rows": [as_json(steps, row) for steps, row in rows.items()],
        "worlds": [world_of(steps, place, seed) for seed in worlds for steps in numbers],
        "differences": [as_difference(steps, row, today) for steps, row in rows.items() if row is not today],
    }
    write_results(Path(results), "steps", result, as_markdown(result))


def as_json(steps: int, row: Row) -> dict[str, Any]:
    """Return what is kept of a row."""
    measures = {name: _figures(row.measures[name]) for name in COLUMNS}
    return {"name": _name(steps), "identity": row.identity, "atoms": row.width, "measures": measures}


def as_difference(steps: int, row: Row, today: Row) -> dict[str, Any]:
    """Return what a row has more than that of today's number of steps, with paired errors."""
    gaps = {name: paired_difference(row, today, name) for name in COLUMNS}
    measures = {name: _figures(found) for name, found in gaps.items() if found is not None}
    return {"name": f"{_name(steps)} less {_name(generalised.STEPS)}", "measures": measures}


def as_markdown(result: dict[str, Any]) -> str:
    """Return both tables."""
    lines = [environment(result)]
    for part, title in (("rows", "fit and code"), ("differences", "difference")):
        cells = [[row["name"], *(_shown(row, name) for name in COLUMNS)] for row in result[part]]
        lines += ["", *table([title, *COLUMNS], cells)]
    worlds = [
        [f"{one['steps']} steps, seed {one['seed']}", *(f"{one[name]:.3f}" for name in SCORES)]
        for one in result["worlds"]
    ]
    lines += ["", *table([f"small world, {ROW}", *SCORES.values()], worlds)]
    return "\n".join(lines) + "\n"


def _name(steps: int) -> str:
    return f"{steps} steps"


def _figures(estimate: Estimate) -> dict[str, float | None]:
    return {"value": estimate.value, "error": estimate.error}


def _shown(row: dict[str, Any], name: str) -> str:
    return show_estimate(**row["measures"][name]) if name in row["measures"] else ""


if __name__ == "__main__":
    auto_cli(run, as_positional=False)
