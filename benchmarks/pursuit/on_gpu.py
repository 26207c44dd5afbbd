"""Measure the pursuits on a CUDA device beside a linear encode, plain torch and SAELens's matching pursuit SAE.

    python -m benchmarks.pursuit.on_gpu [--activations FILE]

Activations are sparse mixtures, as in ``run.py``; those of a language model, if given (safetensors: ``x`` and
``atoms``). Times are those of whole calls, host work included, between two synchronisations: medians of interleaved
repetitions. Codes are checked against plain float64. Writes results/pursuit_gpu.json and pursuit_gpu.md.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from sae_lens.saes.matching_pursuit_sae import MatchingPursuitSAE, MatchingPursuitSAEConfig
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.results import Study, describe, environment, table, write_results
from itda_lightning.pursuit import PreparedAtoms, combine, pursue
from itda_lightning.pursuit.pruning import leave_one_out

RESULTS = Path(__file__).parent / "results"
BATCH, K, CHECKED = 4096, 32, 16
LARGEST_GRAM = 32_768
SIZES = ((2304, 16_384), (576, 4096), (2304, 65_536))
LINEAR, LINEAR_TF32, SAELENS = "linear encode", "linear encode, TF32", "SAELens matching pursuit"


def mixtures(d: int, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw mixtures of 40 of n hidden directions with a tenth of noise: activations, and others as atoms."""
    generator = torch.Generator("cuda").manual_seed(seed)
    hidden = torch.nn.functional.normalize(torch.randn(n, d, generator=generator, device="cuda"), dim=1)

    def sample(count: int) -> Tensor:
        support = torch.randint(0, n, (count, 40), generator=generator, device="cuda")
        weights = torch.rand(count, 40, generator=generator, device="cuda") ** 2 + 0.1
        noise = torch.randn(count, d, generator=generator, device="cuda")
        return combine(support, weights, hidden) + noise * (0.1 * weights.norm(dim=1) / d**0.5)[:, None]

    mean = sample(2048).mean(0)
    return sample(BATCH) - mean, torch.nn.functional.normalize(sample(n) - mean, dim=1)


def linear(x: Tensor, atoms: Tensor, precision: str) -> Tensor:
    torch.backends.cuda.matmul.fp32_precision = precision
    try:
        return x @ atoms.T
    finally:
        torch.backends.cuda.matmul.fp32_precision = "ieee"


def saelens_sae(atoms: Tensor) -> MatchingPursuitSAE:
    n, d = atoms.shape
    sae = MatchingPursuitSAE(
        MatchingPursuitSAEConfig(
            d_in=d, d_sae=n, max_iterations=K, residual_threshold=0.0, stop_on_duplicate_support=False, device="cuda"
        )
    )
    sae.W_dec.data, sae.b_dec.data = atoms, torch.zeros(d, device="cuda")
    return sae


def contenders(x: Tensor, atoms: Tensor) -> dict[str, tuple[Callable[[], Any], int]]:
    """Return what encodes the batch, and how often to time it."""
    n, sae = len(atoms), saelens_sae(atoms)
    prepared = PreparedAtoms(atoms, n)
    if n <= LARGEST_GRAM:
        prepared.build_gram()
    plain = PreparedAtoms(atoms, n)
    codes = {"omp": pursue("omp", x, prepared, K), "gomp": pursue("gomp", x, prepared, K, True)}
    few = 3 if n > LARGEST_GRAM else 15
    return {
        LINEAR: (lambda: linear(x, atoms, "ieee"), 15),
        LINEAR_TF32: (lambda: linear(x, atoms, "tf32"), 15),
        "MP": (lambda: pursue("mp", x, prepared, K), few),
        "OMP": (lambda: pursue("omp", x, prepared, K), few),
        "gomp": (lambda: pursue("gomp", x, prepared, K, True), few),
        "pruning of OMP": (lambda: leave_one_out(codes["omp"], x, prepared, 0.005, False), 3),
        "pruning of gomp": (lambda: leave_one_out(codes["gomp"], x, prepared, 0.005, True), 3),
        "MP, plain torch, no Gram": (lambda: pursue("mp", x, plain, K), 1),
        SAELENS: (lambda: sae.encode(x), 1),
    }


def time_all(entries: dict[str, tuple[Callable[[], Any], int]]) -> dict[str, dict[str, float]]:
    """Return ms per batch: median, least and most of interleaved repetitions, after one that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in entries}
    for repetition in range(-1, max(count for _, count in entries.values())):
        for name, (encode, count) in entries.items():
            if repetition >= count:
                continue
            torch.cuda.synchronize()
            start = time.perf_counter()
            encode()
            torch.cuda.synchronize()
            if repetition >= 0:
                times[name].append((time.perf_counter() - start) * 1e3)
    return {
        name: {"median": statistics.median(one), "min": min(one), "max": max(one), "repetitions": len(one)}
        for name, one in times.items()
    }


def check(x: Tensor, atoms: Tensor) -> dict[str, float]:
    """Compare supports and coefficients with plain float64, on a few activations."""
    x, n, result = x[:CHECKED], len(atoms), {}
    prepared, exact = PreparedAtoms(atoms, n), PreparedAtoms(atoms.double(), n)
    if n <= LARGEST_GRAM:
        prepared.build_gram()
    for name in ("mp", "omp", "gomp"):
        code, expected = (
            pursue(name, x, prepared, K, name == "gomp"),
            pursue(name, x.double(), exact, K, name == "gomp"),
        )
        same = (code.support == expected.support).all(1)
        error = (code.coefficients - expected.coefficients).norm(dim=1) / expected.coefficients.norm(dim=1)
        result[f"{name} supports equal"] = float(same.double().mean())
        result[f"{name} coefficient error"] = float(error[same].max()) if bool(same.any()) else float("nan")
    return result


def machine_rates() -> dict[str, float]:
    """Return TFLOP/s of a large product in each precision, and GB/s of a copy, bytes read and written."""
    left, right = torch.randn(8192, 8192, device="cuda"), torch.randn(8192, 8192, device="cuda")
    source = torch.randn(2**28, device="cuda")
    target = torch.empty_like(source)
    runs: dict[str, tuple[Callable[[], Any], float]] = {
        "float32 TFLOP/s": (lambda: linear(left, right, "ieee"), 2 * 8192**3 / 1e12),
        "TF32 TFLOP/s": (lambda: linear(left, right, "tf32"), 2 * 8192**3 / 1e12),
        "bfloat16 TFLOP/s": (lambda: left_half @ right_half.T, 2 * 8192**3 / 1e12),
        "copy GB/s": (lambda: target.copy_(source), 8 * 2**28 / 1e9),
    }
    left_half, right_half = left.bfloat16(), right.bfloat16()
    measured = time_all({name: (run, 7) for name, (run, _) in runs.items()})
    return {name: amount / measured[name]["median"] * 1e3 for name, (_, amount) in runs.items()}


def where_time_goes(run: Callable[[], Any]) -> dict[str, float]:
    """Return milliseconds per kernel of one call, the longest first."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    kernels = sorted(profile.key_averages(), key=lambda event: -event.self_device_time_total)
    return {event.key[:80]: event.self_device_time_total / 1e3 for event in kernels[:8]}


@torch.no_grad()
def main(activations: Path | None = None, seed: int = 0) -> None:
    """Run the benchmark; ``activations``: a file with those of a language model, encoded as well."""
    rows = []
    problems: list[tuple[str, Callable[[], tuple[Tensor, Tensor]]]] = [
        ("mixtures", partial(mixtures, d, n, seed)) for d, n in SIZES
    ]
    if activations is not None:
        given = load_file(activations, device="cuda")
        problems.append((activations.stem, lambda: (given["x"].float(), given["atoms"].float())))
    for name, problem in problems:
        x, atoms = problem()
        entries = contenders(x, atoms)
        times = time_all(entries)
        row: dict[str, Any] = {
            "activations": name,
            "d": x.shape[1],
            "n": len(atoms),
            "k": K,
            "batch": len(x),
            "gram": len(atoms) <= LARGEST_GRAM,
            "ms": times,
            "check": check(x, atoms),
            "memory_gb": torch.cuda.max_memory_allocated() / 2**30,
            "where time goes": {
                key: where_time_goes(entries[key][0]) for key in ("MP", "OMP", "gomp", "pruning of gomp")
            },
        }
        rows.append(row)
        print({key: spread["median"] for key, spread in times.items()}, row["check"], flush=True)
        del x, atoms, entries
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    result = {
        **describe(Study("pursuit/on_gpu", dataset="mixtures and activations", seed=seed)),
        "rates": machine_rates(),
        "rows": rows,
    }
    write_results(RESULTS, "pursuit_gpu", result, as_markdown(result))


def as_markdown(result: dict[str, Any]) -> str:
    names = list(result["rows"][0]["ms"])
    lines = [
        f"Medians in ms per batch of {BATCH:,}, k {K}, seed {result['seed']}. {environment(result)} "
        + ", ".join(f"{name} {rate:,.0f}" for name, rate in result["rates"].items())
        + f". Dictionaries of more than {LARGEST_GRAM:,} atoms are encoded without a Gram.",
        "",
        *table(
            ["activations, d / n", *names, "SAELens : MP", "supports equal"],
            (
                [
                    f"{row['activations']}, {row['d']:,} / {row['n']:,}",
                    *(f"{row['ms'][name]['median']:,.1f}" for name in names),
                    f"{row['ms'][SAELENS]['median'] / row['ms']['MP']['median']:.1f}",
                    f"{min(share for key, share in row['check'].items() if 'supports' in key):.2f}",
                ]
                for row in result["rows"]
            ),
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
