"""Measure encoding and growth with tens of thousands of atoms at d = 16,384 within a memory budget.

    python -m benchmarks.big_dictionary.run [--n 65536] [--d 16384] [--budgets_gb '[2]'] [--dtypes '[bfloat16,
    float32]']

Each row is a process of its own, whose peak resident memory is set against the atoms and the budget. Adds its rows to
results/big_dictionary.json and writes results/big_dictionary.md.
"""

import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from torch import Tensor

from benchmarks.results import Study, describe, table, write_results
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.growth import GROWTH_POLICIES, GrowthRule
from itda_lightning.pursuit import combine

RESULTS = Path(__file__).parent / "results"
DIRECTIONS, MIXED, CHUNK = 1024, 12, 1000


def main(
    d: int = 16_384,
    n: int = 65_536,
    k: int = 32,
    budgets_gb: tuple[float, ...] = (2.0,),
    dtypes: tuple[str, ...] = ("bfloat16", "float32"),
    activations: int = 64,
    growth_batch: int = 32,
    seed: int = 0,
) -> None:
    """Measure every dtype with every budget."""
    path = RESULTS / "big_dictionary.json"
    for dtype in dtypes:
        for budget in budgets_gb:
            with multiprocessing.get_context("fork").Pool(1) as pool:
                row = pool.apply(measure, (d, n, k, int(budget * 1e9), dtype, activations, growth_batch, seed))
            sys.stdout.write(f"{row}\n")
            result = describe(Study("big_dictionary", dataset="sparse mixtures of hidden directions", seed=seed))
            rows = json.loads(path.read_text())["rows"] if path.exists() else []
            load = os.getloadavg()[2]
            rows.append(row | {"load average": load, "seed": seed, "commit": result["commit"]})
            write_results(RESULTS, "big_dictionary", result | {"rows": rows}, as_markdown(result | {"rows": rows}))


def measure(
    d: int, n: int, k: int, budget: int, dtype: str, activations: int, growth_batch: int, seed: int
) -> dict[str, Any]:
    """Measure one row in a fresh process: memory in GB, rates per second."""
    sample = sampler(d, seed)
    warm_up(d, k, dtype)
    empty = peak_gb()
    dictionary = Dictionary(torch.zeros(0, d, dtype=getattr(torch, dtype)), k=k, capacity=n, memory_budget=budget)
    # Chunks are one chunk with its dimensions shifted: drawing all would take longer than what is measured.
    rows = torch.nn.functional.normalize(sample(CHUNK), dim=1)
    while (left := n - growth_batch - dictionary.n_atoms) > 0:
        dictionary.append(rows.roll(dictionary.n_atoms, 1)[:left], torch.zeros(min(CHUNK, left), 6, dtype=torch.int64))
    atoms_gb = n * d * getattr(torch, dtype).itemsize / 1e9
    x, batch = sample(activations), sample(growth_batch)
    loaded = peak_gb() - empty

    prepared = dictionary.prepared()
    gram_seconds = seconds_of(prepared.build_gram)
    unexplained: list[float] = []

    def encode() -> None:
        code = dictionary.encode(x)
        unexplained.append(float(code.residual_energy.sum() / x.square().sum()))

    encode_seconds = seconds_of(encode)
    rule = GrowthRule(k, "mp", False, 0.5 * unexplained[0])
    rates, appended = {}, 0
    for policy in ("frozen_batch", "sequential"):
        part = batch[: len(batch) // 2] if policy == "frozen_batch" else batch[len(batch) // 2 :]

        def grow(policy: str = policy, part: Tensor = part) -> None:
            nonlocal appended
            grown = GROWTH_POLICIES[policy](part, prepared, rule)
            dictionary.append(grown.atoms, torch.zeros(len(grown.atoms), 6, dtype=torch.int64))
            appended += len(grown.atoms)

        rates[f"{policy} activations/s"] = len(part) / seconds_of(grow)
    worked = peak_gb()
    with tempfile.TemporaryDirectory() as directory:
        save_seconds = seconds_of(lambda: dictionary.save(Path(directory) / "saved"))
    return {
        "d": d,
        "atoms": n,
        "k": k,
        "storage": dtype,
        "threads": torch.get_num_threads(),
        "budget GB": budget / 1e9,
        "Gram": prepared.gram is not None,
        "bfloat16 screening": prepared.coarse.used,
        "atoms GB": atoms_gb,
        "peak GB above the process without atoms": worked - empty,
        "peak GB beyond atoms": worked - empty - atoms_gb,
        "peak GB beyond atoms before encoding": loaded - atoms_gb,
        "peak GB beyond atoms with saving": peak_gb() - empty - atoms_gb,
        "Gram s": gram_seconds if prepared.gram is not None else None,
        "codes/s": activations / encode_seconds,
        "unexplained": unexplained[0],
        **rates,
        "appended": appended,
        "save s": save_seconds,
    }


def sampler(d: int, seed: int) -> Callable[[int], Tensor]:
    """Return a function that draws sparse mixtures of hidden directions with a tenth of noise."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.nn.functional.normalize(torch.randn(DIRECTIONS, d, generator=generator), dim=1)

    def sample(count: int) -> Tensor:
        support = torch.randint(0, DIRECTIONS, (count, MIXED), generator=generator)
        weights = torch.rand(count, MIXED, generator=generator) ** 2 + 0.1
        noise = torch.randn(count, d, generator=generator) * (0.1 * weights.norm(dim=1) / d**0.5)[:, None]
        return combine(support, weights, hidden) + noise

    return sample


def warm_up(d: int, k: int, dtype: str) -> None:
    """Compile the loops, whose memory is not the dictionary's."""
    atoms = torch.eye(256, d, dtype=getattr(torch, dtype))
    Dictionary(atoms, k=k).encode(torch.randn(8, d))


def peak_gb() -> float:
    """Return the largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def seconds_of(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def as_markdown(result: dict[str, Any]) -> str:
    columns = [name for name in result["rows"][0] if name not in ("seed", "commit")]
    versions = result["versions"]

    def cell(value: Any) -> str:
        if isinstance(value, bool) or value is None:
            return {True: "yes", False: "no", None: ""}[value]
        return f"{value:,.3g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)

    lines = [
        f"Signed matching pursuit by `Dictionary.encode` and growth steps, {versions['cpus']} CPU cores, torch "
        f"{versions['torch']}; commits stand in the JSON. Where the load average was above the number of cores, read "
        "the memory, not the times.",
        "",
        *table(columns, ([cell(row.get(name)) for name in columns] for row in result["rows"])),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
