"""Whether encoding a million activations streams: peak memory and speed at n = 16,384, with two memory budgets.

    python benchmarks/pursuit_streaming.py [--activations 1000000]

Writes results/pursuit_streaming.json and pursuit_streaming.md.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from jsonargparse import auto_cli
from pursuit import make_problem, peak_memory
from torch import Tensor

import itda_lightning as il
from itda_lightning.machine.versions import versions_and_hardware

RESULTS = Path(__file__).parent / "results"


def main(activations: int = 1_000_000, d: int = 576, n: int = 16_384, k: int = 32, seed: int = 0) -> None:
    """Encode so many activations with two budgets and write what memory rose above the activations themselves."""
    problem = make_problem(d, n, 16_384, seed)
    x = problem.x.repeat(-(-activations // len(problem.x)), 1)[:activations]
    rows = []
    # The small one first: memory that a run gave back to the allocator counts as the process's own afterwards.
    for budget in (2**28, None):
        seconds = 0.0
        dictionary = il.Dictionary(problem.atoms, k=k, memory_budget=budget)
        # Without room for a Gram every step is a product with all atoms: a twentieth of the activations tells enough.
        part = x if budget is None else x[: activations // 20]

        def encode(dictionary: il.Dictionary = dictionary, part: Tensor = part) -> None:
            nonlocal seconds
            start = time.perf_counter()
            dictionary.encode(part)
            seconds = time.perf_counter() - start

        peak = peak_memory(encode)
        rows.append(
            {
                "budget MiB": None if budget is None else budget // 2**20,
                "activations": len(part),
                "activations MiB": part.numel() * 4 // 2**20,
                "codes MiB": len(part) * (k * 12 + 4) // 2**20,
                "peak MiB above the activations": peak // 2**20,
                "seconds": seconds,
                "us an activation": seconds * 1e6 / len(part),
            }
        )
        sys.stdout.write(f"{rows[-1]}\n")
    versions = versions_and_hardware()
    result = {
        "d": d,
        "n": n,
        "k": k,
        "seed": seed,
        "commit": subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip(),
        "threads": torch.get_num_threads(),
        "rows": rows,
        "versions": versions,
    }
    lines = [
        f"Signed matching pursuit by `Dictionary.encode`, d = {d}, n = {n:,}, k = {k}, {versions['cpus']} CPU cores, "
        f"torch {versions['torch']}, commit {result['commit'][:12]}.",
        "",
        "| " + " | ".join(rows[0]) + " |",
        "|---" * len(rows[0]) + "|",
        *(
            "| " + " | ".join("default" if value is None else f"{value:,.0f}" for value in row.values()) + " |"
            for row in rows
        ),
    ]
    (RESULTS / "pursuit_streaming.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / "pursuit_streaming.md").write_text("\n".join(lines) + "\n")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
