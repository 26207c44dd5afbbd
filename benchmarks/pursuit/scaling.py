"""Measure how the cost of a code grows with the dictionary: d = 576, n = 4,096 to 65,536, all with a Gram.

    python -m benchmarks.pursuit.scaling

The largest Gram takes 8.6 GB. Medians and ranges of repetitions on the same number of activations, in µs an activation.
Writes results/pursuit_scaling.json and pursuit_scaling.md.
"""

import statistics
import time
from typing import Any

from jsonargparse import auto_cli

from benchmarks.pursuit.run import RESULTS, make_problem
from benchmarks.results import Study, describe, environment, table, write_results
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
        print(row, flush=True)
    study = Study("pursuit/scaling", dataset="mixtures of hidden directions, as of run.py", seed=seed)
    result = {**describe(study), "d": d, "k": k, "batch": batch, "rows": rows}
    write_results(RESULTS, "scaling", result, as_markdown(result))


def as_markdown(result: dict[str, Any]) -> str:
    names = ("linear encode", "MP", "OMP")
    rows = [
        [
            f"{row['n']:,}",
            f"{row['gram seconds']:.1f}",
            *(f"{row[name]['median']:,.0f} ({row[name]['min']:,.0f}-{row[name]['max']:,.0f})" for name in names),
        ]
        for row in result["rows"]
    ]
    lines = [
        f"d = {result['d']}, k = {result['k']}, {result['batch']:,} activations, with a Gram; medians (ranges) in µs "
        f"per activation. {environment(result)}",
        "",
        *table(["n", "building the Gram, s", *names], rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
