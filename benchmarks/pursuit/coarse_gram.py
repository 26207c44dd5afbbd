"""Measure what a Gram of few bits would make of 65,536 atoms in 8 GiB, in which 16 bits an entry do not fit.

    python -m benchmarks.pursuit.coarse_gram

Such a Gram would screen: scores follow the code along its rows, and atoms within the bound of their errors of the best
score are scored again. An entry is a multiple of the 254th (8 bits) or 4,094th part (12 bits) of the largest in its
group of 128, atoms themselves aside, or has 8 significant bits (bfloat16). Counted are the atoms that no screen could
rule out, from exact scores of matching pursuit; timed are the parts of which a step is made: rows of 8-bit entries,
subtracted one or four at a time, and single inner products with atoms anywhere. From these follows what a pursuit would
cost at least. One thread, processor time, since the machine may be shared. Writes results/coarse_gram.json and
coarse_gram.md.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import auto_cli
from numba import njit
from numpy.typing import NDArray

from benchmarks.pursuit.little_memory import BATCH, DATASET, HOOK, MODEL, activations_of_model, mixtures
from benchmarks.pursuit.run import LINEAR, RESULTS, Problem
from benchmarks.results import Study, describe, environment, table, write_results
from itda_lightning.pursuit.kernels.screening import GROUP
from itda_lightning.pursuit.kernels.sums import dot

BUDGET = 8 * 2**30
# The largest error of an entry, as a share of the largest of its group.
FORMATS = {"8 bits": 1 / 254, "bfloat16": 2.0**-9, "12 bits": 1 / 4094, "16 bits": 1 / 65534}
BITS = {"8 bits": 8, "bfloat16": 16, "12 bits": 12, "16 bits": 16}


@njit(nogil=True, fastmath=True)
def subtract_one(scores: NDArray, row: NDArray, scale: NDArray, weight: np.float32) -> None:
    for group in range(scores.shape[0]):
        w = weight * scale[group]
        for q in range(GROUP):
            scores[group, q] -= w * np.float32(row[group, q])


@njit(nogil=True, fastmath=True)
def subtract_four(scores: NDArray, rows: NDArray, scales: NDArray, at: NDArray, weight: np.float32) -> None:
    for group in range(scores.shape[0]):
        w = weight * scales[at[0], group], weight * scales[at[1], group]
        v = weight * scales[at[2], group], weight * scales[at[3], group]
        a, b, c, d = rows[at[0], group], rows[at[1], group], rows[at[2], group], rows[at[3], group]
        for q in range(GROUP):
            near = w[0] * np.float32(a[q]) + w[1] * np.float32(b[q])
            scores[group, q] -= near + (v[0] * np.float32(c[q]) + v[1] * np.float32(d[q]))


@njit(nogil=True)
def single_rows(scores: NDArray, rows: NDArray, scales: NDArray, at: NDArray) -> None:
    for row in at:
        subtract_one(scores, rows[row], scales[row], np.float32(1e-9))


@njit(nogil=True)
def rows_by_four(scores: NDArray, rows: NDArray, scales: NDArray, at: NDArray) -> None:
    for first in range(0, len(at), 4):
        subtract_four(scores, rows, scales, at[first : first + 4], np.float32(1e-9))


@njit(nogil=True)
def single_products(x: NDArray, atoms: NDArray, at: NDArray) -> np.float32:
    total = np.float32(0)
    for atom in at:
        total += dot(x, atoms[atom])
    return total


def candidates(problem: Problem, k: int, rows: int) -> dict[str, float]:
    """Count the atoms per step that a screen by each format cannot rule out, the best included."""
    atoms, residual = problem.atoms, problem.x[:rows].clone()
    groups = -(-problem.n // GROUP)
    error = torch.zeros(rows, groups)  # in units of a format's share
    counts = dict.fromkeys(FORMATS, 0)
    for _ in range(k):
        scores = residual @ atoms.T
        best, atom = scores.abs().max(1)
        for name, share in FORMATS.items():
            bound = (share * error).repeat_interleave(GROUP, dim=1)[:, : problem.n]
            counts[name] += int((scores.abs() + bound >= best[:, None]).sum())
        coefficient = scores.gather(1, atom[:, None])
        gram = (atoms[atom] @ atoms.T).abs()
        gram.scatter_(1, atom[:, None], 0.0)
        gram = torch.nn.functional.pad(gram, (0, groups * GROUP - problem.n))
        error += coefficient.abs() * gram.view(rows, groups, GROUP).amax(2)
        residual -= coefficient * atoms[atom]
    return {name: count / (rows * k) for name, count in counts.items()}


def seconds(parts: dict[str, tuple[int, Callable[[], object]]], repetitions: int) -> dict[str, float]:
    """Return the processor time in µs of one of the units of each part: medians of interleaved repetitions."""
    times: dict[str, list[float]] = {name: [] for name in parts}
    for repetition in range(repetitions + 1):
        for name, (units, do) in parts.items():
            start = time.thread_time()
            do()
            if repetition:  # the first compiles
                times[name].append(1e6 * (time.thread_time() - start) / units)
    return {name: float(np.median(of_part)) for name, of_part in times.items()}


def measure(name: str, problem: Problem, k: int, counted: int, repetitions: int) -> dict[str, Any]:
    """Count candidates and time the parts of a step."""
    generator, groups = np.random.default_rng(0), problem.n // GROUP
    kept = 4096
    gram = generator.integers(-127, 128, (kept, groups, GROUP), dtype=np.int8)
    scales = np.ones((kept, groups), np.float32)
    scores = generator.standard_normal((groups, GROUP)).astype(np.float32)
    at, anywhere = generator.permutation(kept)[:256], generator.integers(0, problem.n, 1024)
    x, atoms = problem.x[:256], problem.atoms
    us = seconds(
        {
            LINEAR: (len(x), lambda: x @ atoms.T),
            "8-bit row": (len(at), lambda: single_rows(scores, gram, scales, at)),
            "8-bit row of four": (len(at), lambda: rows_by_four(scores, gram, scales, at)),
            "product with an atom": (len(anywhere), lambda: single_products(x[0].numpy(), atoms.numpy(), anywhere)),
        },
        repetitions,
    )
    left = candidates(problem, k, counted)
    floors = {"MP": (k - 1) * us["8-bit row"], "OMP": k * (k - 1) / 2 * us["8-bit row of four"]}
    rescored = k * left["8 bits"] * us["product with an atom"]
    return {
        "activations": name,
        "d": problem.d,
        "n": problem.n,
        "k": k,
        "counted": counted,
        "us": us,
        "candidates": left,
        "linear encodes": {
            "rescoring": rescored / us[LINEAR],
            **{pursuit: 1 + (floor + rescored) / us[LINEAR] for pursuit, floor in floors.items()},
            **{f"{pursuit} without rescoring": 1 + floor / us[LINEAR] for pursuit, floor in floors.items()},
        },
    }


@torch.no_grad()
def main(
    n: int = 65_536,
    k: int = 32,
    cache_dir: Path = Path("~/.cache/itda_lightning/activations"),
    counted: int = 64,
    repetitions: int = 9,
) -> None:
    """Run the benchmark.

    Args:
        n, k: of the dictionaries and codes.
        cache_dir: of activations.
        counted: activations whose candidates are counted.
        repetitions: of what is timed.
    """
    torch.set_num_threads(1)
    problem, revision = activations_of_model(n, 2**30, cache_dir)
    rows = [measure(HOOK, problem, k, counted, repetitions)]
    print(rows[-1], flush=True)
    del problem
    rows.append(measure("mixtures", mixtures(2304, n, 2**30), k, counted, repetitions))
    study = Study("pursuit/coarse_gram", MODEL, revision, HOOK, DATASET, tokens=n + 2 * BATCH, seed=0)
    sizes = {name: n * n * bits / 8 / 2**30 for name, bits in BITS.items()}
    result = {**describe(study), "budget": BUDGET, "GiB": sizes, "rows": rows}
    write_results(RESULTS, "coarse_gram", result, as_markdown(result))


def as_markdown(result: dict[str, Any]) -> str:
    head, left, parts, costs = "activations / d / n / k", [], [], []
    for row in result["rows"]:
        label = f"{row['activations']} / {row['d']:,} / {row['n']:,} / {row['k']}"
        left.append([label, *(f"{count:,.1f}" for count in row["candidates"].values())])
        parts.append([label, *(f"{us:,.2f}" for us in row["us"].values())])
        costs.append([label, *(f"{ratio:.1f}" for ratio in row["linear encodes"].values())])
    first = result["rows"][0]
    sizes = ", ".join(f"{name} {size:.1f}" for name, size in result["GiB"].items())
    lines = [
        f"Processor time of one thread on a machine that others used. {environment(result)} GiB of a Gram: {sizes}.",
        "",
        "Atoms per step that no screen by such a Gram rules out:",
        "",
        *table([head, *first["candidates"]], left),
        "",
        "Parts of a step, µs:",
        "",
        *table([head, *first["us"]], parts),
        "",
        "What pursuits by 8 bits would cost at least, in linear encodes (one product, rows, rescoring):",
        "",
        *table([head, *first["linear encodes"]], costs),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
