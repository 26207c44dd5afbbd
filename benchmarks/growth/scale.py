"""Grow and refine one large dictionary to its end: time, memory, growth curve, error of the calibrated size.

    python -m benchmarks.growth.scale [--tokens 1_000_448] [--max_atoms 16384]

The bundled model in bfloat16, its activations cached in bfloat16; the settings of the fit command, with one pass of
refinement. Seconds of growth are recorded batch by batch, so that the cost of an activation against the number of atoms
can be fitted: a + b n by least squares. Writes results/scale.json and scale.md.
"""

import resource
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from jsonargparse import auto_cli

import itda_lightning as il
from benchmarks.bundled import DATASET, MODEL, study_of
from benchmarks.results import describe, environment, table, write_results
from itda_lightning.fitting.growing_and_refining import grow_and_refine
from itda_lightning.fitting.refinement import RefinementSettings
from itda_lightning.fitting.trainer import plain_trainer

RESULTS = Path(__file__).parent / "results"
GIB = 2**30


class Curve(L.Callback):
    """The activations seen, the atoms and the seconds of growth after each batch."""

    def __init__(self) -> None:
        self.points: list[tuple[int, int, float]] = []

    def on_train_batch_end(self, _trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Record a point."""
        assert isinstance(pl_module, il.ITDA)
        n_atoms = pl_module.dictionary(pl_module.hook_names[0]).n_atoms
        self.points.append((int(pl_module.seen), n_atoms, pl_module.growth_seconds))


def main(
    tokens: int = 1_000_448,
    max_atoms: int = 16_384,
    k: int = 48,
    layer: int = 14,
    passes: int = 1,
    cache_dir: str = "~/.cache/itda_lightning/activations",
    seed: int = 0,
    name: str = "scale",
) -> None:
    """Run the study."""
    hook = f"blocks.{layer}.hook_resid_post"
    data = il.ActivationsDataModule(
        MODEL,
        [hook],
        DATASET,
        training_tokens=tokens,
        validation_tokens=32_768,
        cache_dir=cache_dir,
        model_dtype="bfloat16",
        cache_dtype="bfloat16",
        seed=seed,
    )
    start = time.perf_counter()
    data.prepare_data()
    harvested = time.perf_counter()
    curve = Curve()
    module = il.ITDA(max_atoms=max_atoms, k=k, pursuit="gomp", nonnegative=True, l0="auto")
    trainer = plain_trainer(curve, val_check_interval=None)
    refining = grow_and_refine(trainer, module, data, RefinementSettings(passes=passes))
    finished = time.perf_counter()
    seen, atoms, seconds = (np.array(column) for column in zip(*curve.points, strict=True))
    per_activation = np.diff(seconds, prepend=0.0) / np.diff(seen, prepend=0)
    slope, constant = np.polyfit(atoms, per_activation, 1)
    explained = 1 - np.var(per_activation - slope * atoms - constant) / np.var(per_activation)
    kept = np.unique(np.geomspace(1, len(seen), 60).astype(int)) - 1
    result = {
        **describe(study_of("growth/scale", data, hook)),
        "max_atoms": max_atoms,
        "k": k,
        "passes": passes,
        "activations": int(seen[-1]),
        "atoms": int(atoms[-1]),
        "budget": data.rows("train").n_kept,
        "threshold": float(module.thresholds[0]),
        "harvested_tokens": data.harvested_tokens,
        "seconds": {
            "harvest": harvested - start,
            "growth": float(seconds[-1]),
            "refinement and labels": refining,
            "all after the harvest": finished - harvested,
        },
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB,
        "held_out": module.refinements[hook]["validation"] if module.refinements else module.history[-1],
        "curve": {"seen": seen[kept].tolist(), "atoms": atoms[kept].tolist(), "seconds": seconds[kept].tolist()},
        "microseconds_per_activation": {
            "constant": float(constant) * 1e6,
            "per 1,000 atoms": float(slope) * 1e9,
            "share of variance explained": float(explained),
        },
    }
    write_results(RESULTS, name, result, as_markdown(result))


def as_markdown(result: dict[str, Any]) -> str:
    """Return the table of a result."""
    cost, curve = result["microseconds_per_activation"], result["curve"]
    asked = result["max_atoms"]
    if result["atoms"] < asked:
        ended = f"{result['atoms']:,} atoms came in all {result['activations']:,} activations"
    else:
        ended = f"all {asked:,} came in {result['activations']:,} of {result['budget']:,} activations"
    places = range(0, len(curve["seen"]), 6)
    held_out = {name: value for name, value in result["held_out"].items() if isinstance(value, float)}
    return "\n".join(
        [
            f"{result['model']}, {result['hook_name']}, k {result['k']}: calibrated for {asked:,} atoms, {ended}; "
            f"peak memory {result['peak_gib']:.1f} GiB. {environment(result)}",
            "",
            *table(["part", "seconds"], [(part, f"{spent:,.0f}") for part, spent in result["seconds"].items()]),
            "",
            f"Growth takes {cost['constant']:.0f} + {cost['per 1,000 atoms']:.1f} n / 1,000 microseconds per "
            f"activation of a dictionary of n atoms ({cost['share of variance explained']:.0%} of its variance).",
            "",
            *table(
                ["activations", "atoms", "seconds of growth"],
                [
                    (f"{curve['seen'][at]:,}", f"{curve['atoms'][at]:,}", f"{curve['seconds'][at]:,.0f}")
                    for at in [*places, len(curve["seen"]) - 1]
                ],
            ),
            "",
            "Held out: " + ", ".join(f"{name} {value:.4g}" for name, value in held_out.items()) + ".",
            "",
        ]
    )


if __name__ == "__main__":
    auto_cli(main)
