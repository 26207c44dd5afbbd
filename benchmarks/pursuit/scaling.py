"""How the cost of a code grows with the dictionary, with a Gram at every size: d = 576, n = 4,096 to 65,536.

    python benchmarks/pursuit_scaling.py

The largest Gram takes 8.6 GB. Medians and ranges of repetitions on the same number of activations, in µs an activation.
Writes results/pursuit_scaling.json and pursuit_scaling.md.
"""

import json
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from jsonargparse import auto_cli
from pursuit import RESULTS, make_problem

from itda_lightning.machine.versions import versions_and_hardware
from itda_lightning.pursuit import pursue


def main(d: int = 576, k: int = 32, batch: int = 1024, repetitions: int = 7, seed: int = 0) -> None:
    """Run the benchmark and write its results."""
    rows: list[dict[str, Any]] = []
    for n in (4096, 16_384, 65_536):
        problem = make_problem(d, n, batch, seed)
        start = time.perf_counter()
        problem.fast.build_gram()
        row: dict[str, Any] = {"n": n, "gram seconds": problem.gram_seconds + time.perf_counter() - start}
        linear = ("linear encode", lambda p=problem: p.x @ p.atoms.T)
        for name, run in (
            linear,
            *((p.upper(), lambda q=p, o=problem: pursue(q, o.x, o.fast, k)) for p in ("mp", "omp")),
        ):
            run()
            times = []
            for _ in range(repetitions):
                start = time.perf_counter()
                run()
                times.append((time.perf_counter() - start) * 1e6 / batch)
            row[name] = {"median": statistics.median(times), "min": min(times), "max": max(times)}
        rows.append(row)
        sys.stdout.write(f"{row}\n")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    machine = versions_and_hardware()
    result = {"d": d, "k": k, "batch": batch, "seed": seed, "commit": commit, "rows": rows, "versions": machine}
    lines = [
        f"d = {d}, k = {k}, {batch:,} activations, with a Gram; medians (ranges) in µs an activation. "
        f"{machine['cpus']} CPU cores, {machine['memory_gb']} GB, torch {machine['torch']}, "
        f"{torch.get_num_threads()} threads, commit {commit[:12]}.",
        "",
        "| n | building the Gram, s | linear encode | MP | OMP |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            f"{row[name]['median']:,.0f} ({row[name]['min']:,.0f}-{row[name]['max']:,.0f})"
            for name in ("linear encode", "MP", "OMP")
        ]
        lines.append(f"| {row['n']:,} | {row['gram seconds']:.1f} | " + " | ".join(cells) + " |")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "pursuit_scaling.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / "pursuit_scaling.md").write_text("\n".join(lines) + "\n")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
