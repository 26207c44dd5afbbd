"""Measure how long commands, the import and the first code take to start, beside the packages that they import.

    python -m benchmarks.start.run [--repetitions 5]

Every measurement is a process of its own; repetitions of all are interleaved, after one of each that fills the disk's
cache. The first code is ``Dictionary.encode`` of 256 activations over 512 atoms, after the imports: "cold" with an
empty cache of numba, "warm" with the one that the cold process left.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from jsonargparse import auto_cli
from tqdm.auto import trange

from benchmarks.results import Study, describe, environment, table, write_results
from itda_lightning.__main__ import COMMANDS

RESULTS = Path(__file__).parent / "results"
FIRST_CODE = """
import time, torch
import itda_lightning as il
atoms, x = (torch.nn.functional.normalize(torch.randn(n, 64), dim=1) for n in (512, 256))
start = time.perf_counter()
il.Dictionary(atoms, k=8).encode(x)
print(time.perf_counter() - start)
"""


def main(repetitions: int = 5) -> None:
    """Run the study and write results/start.json and results/start.md."""
    calls = {"itda --help": ["-m", "itda_lightning", "--help"]}
    calls |= {f"itda {command} --help": ["-m", "itda_lightning", command, "--help"] for command in COMMANDS}
    imports = ("itda_lightning", "torch", "torch, lightning", "torch, lightning, sae_lens")
    calls |= {f"import {packages}": ["-c", f"import {packages}"] for packages in imports}
    seconds: dict[str, list[float]] = {name: [] for name in [*calls, "first code, cold", "first code, warm"]}
    of_processor: dict[str, list[float]] = {name: [] for name in calls}
    for repetition in trange(repetitions + 1):
        for name, arguments in calls.items():
            before, start = processor_seconds(), time.perf_counter()
            output_of(arguments)
            if repetition:
                seconds[name].append(time.perf_counter() - start)
                of_processor[name].append(processor_seconds() - before)
        with tempfile.TemporaryDirectory() as cache:
            for found in ("first code, cold", "first code, warm"):
                taken = float(output_of(["-c", FIRST_CODE], NUMBA_CACHE_DIR=cache))
                seconds[found] += [taken] if repetition else []
    rows = [
        {
            "start": name,
            "seconds": median(taken),
            "least": min(taken),
            "most": max(taken),
            "processor_seconds": median(of_processor[name]) if name in of_processor else None,
        }
        for name, taken in seconds.items()
    ]
    results = {**describe(Study("start")), "repetitions": repetitions, "rows": rows}
    write_results(RESULTS, "start", results, as_markdown(results))


def as_markdown(results: dict[str, Any]) -> str:
    """Return the table of the results."""
    names = ("seconds", "least", "most", "processor_seconds")
    lines = table(
        ("start", "median s", "least s", "most s", "processor s"),
        ([row["start"], *("" if row[n] is None else f"{row[n]:.2f}" for n in names)] for row in results["rows"]),
    )
    return "\n".join([environment(results), "", *lines, ""])


def processor_seconds() -> float:
    """Return the processor's seconds of all processes that have ended: other programs disturb them less."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def output_of(arguments: list[str], **environment: str) -> str:
    """Return what a Python process prints. Raises ``CalledProcessError`` if it fails."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | environment).stdout


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
