"""Measure the cost of sparse codes against SAELens, scikit-learn, one linear encode and a TopK SAE.

    python -m benchmarks.pursuit.run [--quick true]

Activations are sparse mixtures of a hidden dictionary plus noise, atoms are samples of them, both centred. Every
contender gets the same activations and atoms; repetitions are interleaved, medians and ranges are printed, and the
codes are checked against plain float64 in the same run. Slow peers get fewer activations and repetitions, which the
results say. Writes results/pursuit.json, pursuit.md and pursuit.svg.
"""

import json
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from jsonargparse import auto_cli
from sae_lens.saes.matching_pursuit_sae import MatchingPursuitSAE, MatchingPursuitSAEConfig
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig
from sklearn.linear_model import orthogonal_mp, orthogonal_mp_gram
from torch import Tensor

from benchmarks.results import Study, describe, environment, table, write_results
from itda_lightning.pursuit import PreparedAtoms, combine, pursue

RESULTS = Path(__file__).parent / "results"
LINEAR, TOPK, SAELENS = "linear encode", "TopK SAE encode", "SAELens matching pursuit"
MP, OMP, TORCH_MP, TORCH_OMP = "MP", "OMP", "MP, plain torch", "OMP, plain torch"
SKLEARN, SKLEARN_GRAM = "scikit-learn orthogonal_mp", "scikit-learn orthogonal_mp_gram"
# Above this the pursuits have no room for a Gram here, as on a smaller machine; also what scikit-learn can copy.
LARGEST_GRAM = 16_384
SIZES = (4096, 16_384, 65_536)
BUDGET = 20 * 2**30
CHECKED = 16


class Problem(NamedTuple):
    """Activations and atoms, prepared for the compiled loops (``fast``) and plain torch, with Grams if they fit."""

    d: int
    n: int
    x: Tensor
    atoms: Tensor
    fast: PreparedAtoms
    plain: PreparedAtoms
    gram_seconds: float


def make_problem(d: int, n: int, batch: int, seed: int) -> Problem:
    """Draw mixtures of 40 of n hidden directions with a tenth of noise, centred; other samples are the atoms."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.nn.functional.normalize(torch.randn(n, d, generator=generator), dim=1)

    def sample(count: int) -> Tensor:
        support = torch.randint(0, n, (count, 40), generator=generator)
        weights = torch.rand(count, 40, generator=generator) ** 2 + 0.1
        noise = torch.randn(count, d, generator=generator) * (0.1 * weights.norm(dim=1) / d**0.5)[:, None]
        return combine(support, weights, hidden) + noise

    mean = sample(2048).mean(0)
    atoms = torch.nn.functional.normalize(sample(n) - mean, dim=1)
    fast = PreparedAtoms(atoms, n, budget=BUDGET)
    plain = PreparedAtoms(atoms, n, budget=BUDGET, compiled=False)
    start = time.perf_counter()
    if n <= LARGEST_GRAM:
        fast.build_gram()
    seconds = time.perf_counter() - start
    if n <= LARGEST_GRAM:
        plain.build_gram()
    return Problem(d, n, sample(batch) - mean, atoms, fast, plain, seconds)


def saelens_sae(problem: Problem, k: int) -> MatchingPursuitSAE:
    """Return SAELens's encoder with k plain steps: no threshold, no stop at a repeated support, codes non-negative."""
    config = MatchingPursuitSAEConfig(
        d_in=problem.d, d_sae=problem.n, max_iterations=k, residual_threshold=0.0, stop_on_duplicate_support=False
    )
    sae = MatchingPursuitSAE(config)
    sae.W_dec.data, sae.b_dec.data = problem.atoms, torch.zeros(problem.d)
    return sae


def topk_sae(problem: Problem, k: int) -> TopKSAE:
    """Return a TopK SAE of the same size."""
    sae = TopKSAE(TopKSAEConfig(d_in=problem.d, d_sae=problem.n, k=k))
    sae.W_dec.data = problem.atoms
    sae.W_enc.data = problem.atoms.T.contiguous()
    return sae


class Contender(NamedTuple):
    """An encoder that encodes the first ``activations`` of a problem, ``repetitions`` times."""

    encode: Callable[[Tensor], Any]
    activations: int
    repetitions: int


def contenders(problem: Problem, k: int, repetitions: int, quick: bool) -> dict[str, Contender]:
    """Return everything that can encode this problem within memory and minutes."""
    d, n, x, atoms, fast, plain, _ = problem
    work = d * n * k / 1e9
    batch = len(x)
    has_gram = n <= LARGEST_GRAM
    mp_sae, top = saelens_sae(problem, k), topk_sae(problem, k)
    few = batch if has_gram else batch // 4
    result = {
        LINEAR: Contender(lambda rows: rows @ atoms.T, batch, repetitions),
        TOPK: Contender(top.encode, batch, repetitions),
        MP: Contender(lambda rows: pursue("mp", rows, fast, k), few, repetitions),
        OMP: Contender(lambda rows: pursue("omp", rows, fast, k), few, repetitions),
        TORCH_MP: Contender(lambda rows: pursue("mp", rows, plain, k), few, 3 if has_gram else 1),
        TORCH_OMP: Contender(lambda rows: pursue("omp", rows, plain, k), few // 2, 3 if has_gram else 1),
        SAELENS: Contender(mp_sae.encode, batch // 4 if work < 10 else batch // 8, 3 if work < 2 else 1),
    }
    if not quick and k == 32 and n <= LARGEST_GRAM:
        columns = atoms.T.double().numpy()
        result[SKLEARN] = Contender(
            lambda rows: orthogonal_mp(columns, rows.double().numpy().T, n_nonzero_coefs=k), 2, 1
        )
        gram = columns.T @ columns
        result[SKLEARN_GRAM] = Contender(
            lambda rows: orthogonal_mp_gram(gram, columns.T @ rows.double().numpy().T, n_nonzero_coefs=k), 2, 1
        )
    return result


def time_all(problem: Problem, entries: dict[str, Contender]) -> dict[str, dict[str, float]]:
    """Return µs per activation: median and range of interleaved repetitions, after one that is not counted.

    ``processor`` is the median of the processor time of all threads, on which other processes have less influence.
    """
    times: dict[str, list[float]] = {name: [] for name in entries}
    processor: dict[str, list[float]] = {name: [] for name in entries}
    for repetition in range(-1, max(entry.repetitions for entry in entries.values())):
        for name, entry in entries.items():
            if repetition >= entry.repetitions or (repetition < 0 and entry.repetitions == 1):
                continue
            rows = problem.x[: entry.activations]
            start, spent = time.perf_counter(), time.process_time()
            entry.encode(rows)
            if repetition >= 0:
                times[name].append((time.perf_counter() - start) * 1e6 / entry.activations)
                processor[name].append((time.process_time() - spent) * 1e6 / entry.activations)
    return {
        name: {
            "median": statistics.median(measured),
            "min": min(measured),
            "max": max(measured),
            "processor": statistics.median(processor[name]),
            "activations": entries[name].activations,
            "repetitions": len(measured),
        }
        for name, measured in times.items()
    }


def check(problem: Problem, k: int) -> dict[str, float]:
    """Compare supports and coefficients of the compiled pursuits with plain float64, on a few activations."""
    x = problem.x[:CHECKED]
    exact = PreparedAtoms(problem.atoms.double(), problem.n)
    result = {}
    for name in ("mp", "omp"):
        code, expected = pursue(name, x, problem.fast, k), pursue(name, x.double(), exact, k)
        same = (code.support == expected.support).all(1)
        error = (code.coefficients - expected.coefficients).norm(dim=1) / expected.coefficients.norm(dim=1)
        result[f"{name} supports equal"] = float(same.double().mean())
        result[f"{name} coefficient error"] = float(error[same].max()) if bool(same.any()) else float("nan")
    return result


def peak_memory(run: Callable[[], Any]) -> int:
    """Return the bytes by which the resident memory of the process rises during ``run``."""
    process, done, peak = psutil.Process(), threading.Event(), 0
    before = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, process.memory_info().rss - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    done.set()
    watcher.join()
    return peak


def memory_of(d: int, n: int, batch: int, seed: int) -> dict[str, int]:
    """Return the peak memory of encoding one batch without a Gram, preparation included; k = 4."""
    problem = make_problem(d, n, batch, seed)
    sae = saelens_sae(problem, 4)

    def ours() -> None:
        pursue("mp", problem.x, PreparedAtoms(problem.atoms, n, budget=2**30), 4)

    return {MP: peak_memory(ours), SAELENS: peak_memory(lambda: sae.encode(problem.x))}


def machine_rates() -> dict[str, float]:
    """Return GFLOP/s of a large product in float32 and bfloat16, and GB/s of a copy that misses the caches."""
    left, right = torch.randn(1024, 2304), torch.randn(8192, 2304)
    half_left, half_right = left.bfloat16(), right.bfloat16()
    source, target = torch.randn(2**26), torch.empty(2**26)
    rates = {}
    for name, run, amount in (
        ("float32 GFLOP/s", lambda: left @ right.T, 2 * 1024 * 2304 * 8192),
        ("bfloat16 GFLOP/s", lambda: half_left @ half_right.T, 2 * 1024 * 2304 * 8192),
        ("copy GB/s", lambda: target.copy_(source), 2 * 4 * 2**26),
    ):
        run()
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        rates[name] = amount / min(seconds) / 1e9
    return rates


def where_time_goes(problem: Problem, k: int) -> dict[str, float]:
    """Return µs per activation that matching pursuit spends in the screening product and in the loops."""
    from itda_lightning.pursuit import compiled

    fast = problem.fast
    rows = compiled.rows_at_a_time(fast, k, takes_gram=True)
    room = compiled.ScoreRoom.empty(rows, problem.n)
    start = time.perf_counter()
    for part in problem.x.split(rows):
        compiled.screen(part, fast, room, fast.coarse.used_with_gram)
    screened = (time.perf_counter() - start) * 1e6 / len(problem.x)
    start = time.perf_counter()
    pursue("mp", problem.x, fast, k)
    whole = (time.perf_counter() - start) * 1e6 / len(problem.x)
    return {"screening product": screened, "steps": whole - screened}


@torch.no_grad()
def main(quick: bool = False, repetitions: int = 5, seed: int = 0, sizes: tuple[int, ...] = SIZES) -> None:
    """Run the benchmark.

    Args:
        quick: without the largest dictionaries and scikit-learn.
        repetitions: of the faster contenders; four times as many for the smallest dictionaries.
        seed: of the activations and atoms.
        sizes: numbers of atoms; the rows of other sizes stay those of the results that are there.
    """
    rows: list[dict[str, Any]] = []
    mixtures = "mixtures of 40 of n hidden directions with noise of a tenth, centred; atoms are other samples"
    about = describe(Study("pursuit", dataset=mixtures, seed=seed))
    for d in (576, 2304, 4096):
        for n in (size for size in sizes if not quick or size < max(SIZES)):
            problem = make_problem(d, n, 1024 if n < 65_536 else 512, seed)
            for k in (16, 32, 64):
                # Short runs are the noisiest, and cost least to repeat.
                again = repetitions * (4 if n == 4096 else 1)
                measured = time_all(problem, contenders(problem, k, again, quick))
                row = {
                    "commit": about["commit"],
                    "d": d,
                    "n": n,
                    "k": k,
                    "gram": n <= LARGEST_GRAM,
                    "gram_seconds": problem.gram_seconds,
                    "us": measured,
                    "check": check(problem, k),
                }
                if n == 16_384 and k == 32:
                    row["where time goes"] = where_time_goes(problem, k)
                rows.append(row)
                print(" | ".join(as_row(row)), flush=True)
    if set(sizes) != set(SIZES):
        earlier = json.loads((RESULTS / "pursuit.json").read_text())["rows"]
        rows = sorted(
            [*rows, *(row for row in earlier if row["n"] not in sizes)], key=lambda row: (row["d"], row["n"], row["k"])
        )
    result = {
        **about,
        "rates": machine_rates(),
        "memory without a Gram, n = 65,536, d = 2,304, batch 4,096": {}
        if quick
        else memory_of(2304, 65_536, 4096, seed),
        "rows": rows,
    }
    write_results(RESULTS, "pursuit", result, as_markdown(result), plot(rows))


COLUMNS = (LINEAR, TOPK, MP, OMP, TORCH_MP, TORCH_OMP, SAELENS, SKLEARN, SKLEARN_GRAM)


def as_row(row: dict[str, Any]) -> list[str]:
    us = {name: spread["median"] for name, spread in row["us"].items()}
    cells = [f"{us[name]:,.0f}" if name in us else "" for name in COLUMNS]
    ratios = [f"{us[MP] / us[LINEAR]:.2f}", f"{us[OMP] / us[LINEAR]:.2f}"]
    ratios += [f"{us[SAELENS] / us[name]:.1f}" for name in (MP, OMP, TORCH_MP)]
    exact = min(row["check"]["mp supports equal"], row["check"]["omp supports equal"])
    return [f"{row['d']:,} / {row['n']:,} / {row['k']}", *cells, *ratios, f"{exact:.2f}"]


def as_markdown(result: dict[str, Any]) -> str:
    head = [f"`{name}`" if "scikit" in name else name for name in COLUMNS]
    head += ["MP : linear", "OMP : linear", "SAELens : MP", "SAELens : OMP", "SAELens : torch MP", "supports equal"]
    lines = [
        f"Medians in µs per activation, seed {result['seed']}. {environment(result)} "
        + ", ".join(f"{name} {rate:,.0f}" for name, rate in result["rates"].items())
        + f". Dictionaries of more than {LARGEST_GRAM:,} atoms are encoded without a Gram.",
        "",
        *table(["d / n / k", *head], map(as_row, result["rows"])),
        "",
        *(
            f"Rows of {n:,} atoms: commit "
            f"{', '.join(sorted({row['commit'][:12] for row in result['rows'] if row['n'] == n}))}."
            for n in sorted({row["n"] for row in result["rows"]})
        ),
        "",
    ]
    for name, memory in result.items():
        if name.startswith("memory") and memory:
            lines.append(
                f"Peak {name}: " + ", ".join(f"{who} {size / 2**20:,.0f} MiB" for who, size in memory.items()) + "."
            )
    for row in result["rows"]:
        if "where time goes" in row:
            parts = ", ".join(f"{name} {us:,.0f} µs" for name, us in row["where time goes"].items())
            lines.append(f"MP at {row['d']:,} / {row['n']:,} / {row['k']}: {parts}.")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]]) -> Any:
    """Draw cost against k, one panel for each d and n."""
    from matplotlib.figure import Figure  # of the extra `benchmarks`

    widths, sizes = sorted({row["d"] for row in rows}), sorted({row["n"] for row in rows})
    figure = Figure(figsize=(4 * len(sizes), 3.2 * len(widths)), layout="constrained")
    panels = figure.subplots(len(widths), len(sizes), squeeze=False, sharex=True)
    for i, d in enumerate(widths):
        for j, n in enumerate(sizes):
            panel, here = panels[i][j], [row for row in rows if (row["d"], row["n"]) == (d, n)]
            for name in COLUMNS:
                points = [(row["k"], row["us"][name]["median"]) for row in here if name in row["us"]]
                if points:
                    panel.plot(*zip(*points, strict=True), marker="o", label=name)
            panel.set(yscale="log", title=f"d {d:,}, n {n:,}", xlabel="k", ylabel="µs an activation")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
