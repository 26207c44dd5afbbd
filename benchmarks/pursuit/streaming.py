"""Check that encoding a million activations streams: memory and speed at n = 16,384 with two budgets.

    python -m benchmarks.pursuit.streaming [--activations 1000000]

Writes results/pursuit_streaming.json and pursuit_streaming.md.
"""

import time
from typing import Any

from jsonargparse import auto_cli
from torch import Tensor

import itda_lightning as il
from benchmarks.pursuit.run import RESULTS, make_problem, peak_memory
from benchmarks.results import Study, describe, environment, table, write_results


def main(activations: int = 1_000_000, d: int = 576, n: int = 16_384, k: int = 32, seed: int = 0) -> None:
    """Encode the activations with two budgets and report the memory beyond the activations themselves."""
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
        print(rows[-1], flush=True)
    study = Study(
        "pursuit/streaming", dataset="mixtures of hidden directions, as of run.py", tokens=activations, seed=seed
    )
    result = {**describe(study), "d": d, "n": n, "k": k, "rows": rows}
    write_results(RESULTS, "streaming", result, as_markdown(result))


def as_markdown(result: dict[str, Any]) -> str:
    rows = result["rows"]
    lines = [
        f"Signed matching pursuit by `Dictionary.encode`, d = {result['d']}, n = {result['n']:,}, k = {result['k']}. "
        f"{environment(result)}",
        "",
        *table(
            list(rows[0]),
            (["default" if value is None else f"{value:,.0f}" for value in row.values()] for row in rows),
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
