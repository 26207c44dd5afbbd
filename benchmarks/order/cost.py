"""Measure what order-free growth costs beside sequential growth, by how large a component is removed.

    python -m benchmarks.order.cost

The first half of the bundled text, as in ``reproducibility``: sequential growth at the threshold at which it grows
about a thousand atoms, and order-free growth at its own, with several values of ``STANDS_OUT``; in turns, in one
thread: the median of the processor times, and the share of sources that another order of the tokens gives, too. Writes
results/cost.json and .md.
"""

import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from jsonargparse import auto_cli
from torch import Tensor

import itda_lightning as il
from benchmarks.bundled import DATASET, MODEL
from benchmarks.order.reproducibility import MORE, POLICIES, RESULTS, TOKENS, K, grown, half_of
from benchmarks.order.run import heldout_fvu, orders_of
from benchmarks.results import Study, describe, environment, table, write_results
from itda_lightning.fitting.threshold import typical_energy
from itda_lightning.growth import GrowthRule, worst_first

STANDS_OUT = (0.7, 0.85, 1.0)
SAME_SIZE = 900


def costs(x: Float[Tensor, "tokens d"], heldout: Float[Tensor, "m d"], turns: int) -> list[dict[str, Any]]:
    """Return a row for sequential growth, and one for order-free growth with each value of ``STANDS_OUT``."""
    order = orders_of(torch.zeros(len(x)), 1, "tokens", 0)[0]
    thresholds = {policy: grown(x, policy, window, None)[1] for policy, window, _ in POLICIES}
    (free, batch, name), (sequential, window, other) = POLICIES
    rows: list[dict[str, Any]] = [{"policy": sequential, "window": window, "name": other, "stands_out": None}]
    rows += [{"policy": free, "window": batch, "name": name, "stands_out": value} for value in STANDS_OUT]
    usual = worst_first.STANDS_OUT
    for turn in range(turns):
        for row in rows:
            worst_first.STANDS_OUT = row["stands_out"] or usual
            arguments = row["policy"], row["window"], thresholds[row["policy"]]
            start = time.process_time()
            atoms = grown(x, *arguments)[0]
            row.setdefault("turns", []).append(time.process_time() - start)
            if turn == 0:
                again = order[grown(x[order], *arguments)[0]]
                unit = torch.nn.functional.normalize(x[atoms[:SAME_SIZE]], dim=1)
                row["threshold"], row["atoms"] = arguments[2], len(atoms)
                row["shared_sources"] = 2 * int(torch.isin(atoms, again).sum()) / (len(atoms) + len(again))
                row["heldout_fvu"] = heldout_fvu(
                    unit, heldout, GrowthRule(K, "omp", False, 0.5, 1.0, typical_energy(x))
                )
    worst_first.STANDS_OUT = usual
    for row in rows:
        row["seconds"] = statistics.median(row["turns"])
        row["ratio"] = row["seconds"] / rows[0]["seconds"]
    return rows


def main(
    directory: Path = Path("runs/reproducibility"),
    hook_name: str = "blocks.14.hook_resid_post",
    cache_dir: str = "~/.cache/itda_lightning/activations",
    turns: int = 3,
    results: Path = RESULTS,
) -> None:
    """Grow in turns and write."""
    torch.set_num_threads(1)
    directory.mkdir(parents=True, exist_ok=True)
    text = str(half_of(directory, 0))
    sizes: dict[str, Any] = {"training_tokens": MORE * TOKENS, "validation_tokens": 4096}
    data = il.ActivationsDataModule(MODEL, [hook_name], text, **sizes, cache_dir=cache_dir)
    data.prepare_data()
    first = data.with_settings(first_tokens=TOKENS)
    x = torch.cat([batch.activations[hook_name] for batch in first.train_dataloader()]).float()
    heldout = torch.cat([batch.activations[hook_name] for batch in first.val_dataloader()]).float() - x.mean(0)
    study = Study("order/cost", MODEL, data.model_name.fingerprint(), hook_name, f"{DATASET}, first half", TOKENS, 0)
    content = {**describe(study), "k": K, "activations": len(x), "rows": costs(x - x.mean(0), heldout, turns)}
    write_results(results, "cost", json.loads(json.dumps(content)), as_markdown(content))


def as_markdown(content: dict[str, Any]) -> str:
    """Return one row per way to grow."""
    cells = [
        (
            row["name"],
            "" if row["stands_out"] is None else f"{row['stands_out']:g}",
            f"{row['atoms']:,}",
            f"{row['shared_sources']:.3f}",
            f"{row['heldout_fvu']:.4f}",
            f"{row['seconds']:.2f}",
            f"{row['ratio']:.2f}",
        )
        for row in content["rows"]
    ]
    head = ["growth", "removed: times the geometric mean of 1 / d and 1 / k", "atoms", "shared by another order"]
    head += [f"held-out FVU, {SAME_SIZE} atoms", "processor seconds", "ratio"]
    lines = [
        f"{content['model']}, {content['hook_name']}, {content['activations']:,} activations of half the text, k "
        f"= {content['k']}. {environment(content)}",
        "",
        *table(head, cells),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
