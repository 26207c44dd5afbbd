"""Which atoms mean one thing? Dictionaries, SAEs and controls in worlds whose features are known.

    python -m benchmarks.synthetic.run --world small --seed 0 [--rows "[unmixed, TopK]"]

Worlds, samples, dictionaries and SAEs are made once and kept in ``cache_dir``; finished rows are kept in
results/<world>.json, which holds all seeds, so the study may be stopped and started again. The table in
results/<world>.md has means over seeds with their standard deviation.
"""

import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli

from benchmarks.results import Study, commit, describe, environment, table, write_results
from benchmarks.synthetic.rows import PUBLISHED, rows_of
from benchmarks.synthetic.scores import MEASURES, score
from benchmarks.synthetic.worlds import PART, World
from itda_lightning.errors import InputError

RESULTS = Path(__file__).parent / "results"
HEADS = ("F1", "precision", "recall", "MCC", "uniqueness", "EV", "L0", "dead", "seconds")
COLUMNS = (*MEASURES, "seconds")


def main(
    world: str = "small",
    seed: int = 0,
    rows: list[str] | None = None,
    samples: int = 65_536,
    heldout: int = 16_384,
    cache_dir: str = "~/.cache/itda_lightning/synthetic",
    results: Path = RESULTS,
) -> None:
    """Run what is not there yet.

    Args:
        world: 16k (as published, with seed 42), small or tiny.
        seed: of the world, and of what is drawn in making dictionaries and SAEs.
        rows: names, or beginnings of names, in the order in which they are run; null for all but those of 32 times
            the samples.
        samples: that dictionaries are made from; SAEs see a multiple.
        heldout: samples that rows are scored on.
        cache_dir: where worlds are kept.
        results: where results are.
    """
    if heldout % PART:
        raise InputError(f"heldout must be a multiple of {PART:,}, got {heldout:,}: samples are drawn in parts")
    torch.set_num_threads(1)
    place = World(world, seed, cache_dir)
    known = rows_of(place)
    wanted = {
        row: [name for name in known if name == row or (row not in known and name.startswith(row))]
        for row in rows or ()
    }
    if unknown := [row for row, names in wanted.items() if not names]:
        raise InputError(f"no row begins with {unknown}: give beginnings of {', '.join(known)}")
    chosen = [name for names in wanted.values() for name in names] or [name for name in known if "32 T" not in name]
    for name in chosen:
        key = {"row": name, "seed": seed, "samples": samples * known[name].times, "heldout": heldout}
        done = _finished(results, world)
        if any(key.items() <= row.items() for row in done):
            continue
        sae, seconds = known[name].sae(place, samples, seed)
        start = time.perf_counter()
        row = key | score(sae, place, heldout) | {"seconds": seconds, "scoring": time.perf_counter() - start}
        row["commit"] = commit()
        _write(results, world, [*_finished(results, world), row], list(known))


def _finished(results: Path, world: str) -> list[dict[str, Any]]:
    """Return the rows of all seeds that are in the results."""
    path = results / f"{world}.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    return rows


def _write(results: Path, world: str, rows: list[dict[str, Any]], order: Sequence[str]) -> None:
    places = {name: number for number, name in enumerate(order)}
    rows = sorted(rows, key=lambda row: (places.get(row["row"], len(places)), row["samples"], row["seed"]))
    described = describe(Study("synthetic", dataset=f"SynthSAEBench's recipe, {world}"))
    result = described | {"rows": rows}
    write_results(results, world, result, as_markdown(result, world))


def as_markdown(result: dict[str, Any], world: str) -> str:
    """Return the table: means over seeds, with their standard deviation."""
    grouped: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in result["rows"]:
        grouped.setdefault((row["row"], row["samples"]), []).append(row)
    lines = [
        (name, f"{samples:,}", str(len(of)), *(_cell(measure, [row[measure] for row in of]) for measure in COLUMNS))
        for (name, samples), of in grouped.items()
    ]
    if world == "16k":
        for name, values in PUBLISHED.items():
            quoted = (_cell(measure, [values[measure]]) if measure in values else "" for measure in COLUMNS)
            lines.append((f"published: {name} (quoted, L0 25)", "200,000,000", "", *quoted))
    return "\n".join(
        [
            f"{result['dataset']}: mean over seeds ± standard deviation. {environment(result)}",
            "",
            *table(["row", "samples", "seeds", *HEADS], lines),
            "",
        ]
    )


def _cell(measure: str, values: list[float]) -> str:
    digits = {"l0": 1, "dead": 0, "seconds": 0}.get(measure, 3)
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):,.{digits}f}{spread}"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
