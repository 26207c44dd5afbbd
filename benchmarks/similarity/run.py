"""Measure the cost of each measure between models: seconds and memory at 100,000 tokens of 768 dimensions.

    python -m benchmarks.similarity.run [--note "what else the machine did"]

Two random representations in float32 that share a part; what they are does not change what they cost. Measures of
moments are sums over the tokens and something small after them, so the sums are timed once and each measure adds its
own. Neighbours are those of a sample of tokens among all;
measures of all pairs of tokens are of a sample, too. Memory is the largest resident set beyond what was there
before, the representations among it; each family runs in a process of its own. Linux only. Writes
results/similarity.json and similarity.md.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli

import itda_lightning as il
from benchmarks.results import Study, describe, environment, table, write_results
from itda_lightning import measures as similarity

RESULTS = Path(__file__).parent / "results"
OF_MOMENTS: dict[str, Callable[[similarity.CrossMoments], float]] = {
    "linear CKA": similarity.cka_of,
    "linear CKA, debiased": lambda moments: similarity.cka_of(moments, debiased=True),
    "SVCCA, 99% of variance": similarity.svcca_of,
    "PWCCA": similarity.pwcca_of,
    "regression R²": similarity.regression_r2_of,
    "orthogonal Procrustes": similarity.procrustes_of,
    "angular Procrustes": similarity.angular_procrustes_of,
    "Procrustes of permuted tokens": partial(similarity.null_of, similarity.procrustes_of),
}
OF_A_SAMPLE: dict[str, Callable[[torch.Tensor, torch.Tensor], float]] = {
    "distance correlation": similarity.distance_correlation,
    "RSA": similarity.rsa,
    "second-order cosine": similarity.second_order_cosine,
    "aligned cosine": similarity.aligned_cosine,
}
FAMILIES = ("moments", "relative", "neighbours", "sample", "jaccard")


def resident(field: str) -> int:
    """Return a field of the process's status in bytes: VmRSS now, VmHWM the peak since the last reset."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def measured(run: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Return the result and its cost."""
    Path("/proc/self/clear_refs").write_text("5")
    before, start = resident("VmRSS"), time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    return result, {"seconds": seconds, "peak_bytes": max(0, resident("VmHWM") - before)}


def draw(tokens: int, d: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw two representations that share half of their variance linearly."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, d, generator=generator)
    y = x @ torch.randn(d, d, generator=generator).div_(d**0.5)
    return x, y.add_(torch.randn(tokens, d, generator=generator))


def of_moments(x: torch.Tensor, y: torch.Tensor) -> list[dict[str, Any]]:
    moments, sums = measured(lambda: similarity.CrossMoments.of(x, y))
    rows = [{"measure": "the sums, once for all measures of moments", "value": None, "after_sums": None, **sums}]
    for name, measure in OF_MOMENTS.items():
        value, own = measured(partial(measure, moments))
        held = sum(part.nbytes for part in (moments.xx, moments.yy, moments.xy))
        rows.append(
            {
                "measure": name,
                "value": value,
                "seconds": sums["seconds"] + own["seconds"],
                "after_sums": own["seconds"],
                "peak_bytes": max(sums["peak_bytes"], held + own["peak_bytes"]),
            }
        )
    return rows


def one(name: str, run: Callable[[], float]) -> list[dict[str, Any]]:
    value, cost = measured(run)
    return [{"measure": name, "value": value, "after_sums": None, **cost}]


def draw_sources(atoms: int, tokens: int, seed: int) -> il.Sources:
    chosen = torch.randperm(tokens, generator=torch.Generator().manual_seed(seed))[:atoms]
    zero = torch.zeros_like(chosen)
    return il.Sources(
        torch.stack([chosen // 1000, zero, zero, zero, chosen % 1000, chosen % 1000 + 1], dim=1), "random"
    )


def of_sources(atoms: int, tokens: int) -> list[dict[str, Any]]:
    a, b = draw_sources(atoms, tokens, 0), draw_sources(atoms, tokens, 1)
    use = torch.rand(atoms)
    return [
        *one(f"Jaccard, {atoms:,} atoms each", lambda: similarity.jaccard(a, b)),
        *one("Jaccard over chance (the excess)", lambda: similarity.jaccard_over_chance(a, b, tokens).excess),
        *one("Jaccard weighted by use", lambda: similarity.weighted_jaccard(a, b, use, use)),
    ]


def of_a_sample(x: torch.Tensor, y: torch.Tensor) -> list[dict[str, Any]]:
    return [
        row
        for name, measure in OF_A_SAMPLE.items()
        for row in one(f"{name} of {len(x):,} tokens", partial(measure, x, y))
    ]


def rows_of(
    family: str, tokens: int, d: int, anchors: int, queries: int, k: int, sample: int, atoms: int
) -> list[dict[str, Any]]:
    if family == "jaccard":
        return of_sources(atoms, tokens)
    x, y = draw(tokens, d, seed=0)
    chosen = torch.randperm(tokens, generator=torch.Generator().manual_seed(1))
    runs: dict[str, Callable[[torch.Tensor, torch.Tensor], Any]] = {
        "moments": of_moments,
        "relative": lambda x, y: similarity.relative_similarity(x, y, chosen[:anchors] % len(x)),
        "neighbours": lambda x, y: similarity.mutual_neighbours(x, y, k, chosen[:queries] % len(x)),
        "sample": lambda x, y: of_a_sample(x[:sample], y[:sample]),
    }
    # What libraries load and allocate on first use is not the measure's.
    runs[family](x[:2000], y[:2000])
    if family in ("moments", "sample"):
        rows: list[dict[str, Any]] = runs[family](x, y)
        return rows
    names = {
        "relative": f"relative representations, {anchors} anchors",
        "neighbours": f"mutual {k} nearest neighbours of {queries:,} tokens",
    }
    return one(names[family], lambda: runs[family](x, y))


def main(
    tokens: int = 100_000,
    d: int = 768,
    anchors: int = 300,
    queries: int = 2048,
    k: int = 10,
    sample: int = 1000,
    atoms: int = 16_384,
    note: str = "",
    family: str | None = None,
) -> None:
    """Run the benchmark and write its results; with a family, only print its rows (the script calls itself so)."""
    settings = {"tokens": tokens, "d": d, "anchors": anchors, "queries": queries, "k": k, "sample": sample}
    settings |= {"atoms": atoms}
    if family is not None:
        sys.stdout.write(json.dumps(rows_of(family, **settings)) + "\n")
        return
    rows: list[dict[str, Any]] = []
    arguments = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    for name in FAMILIES:
        command = [sys.executable, "-m", "benchmarks.similarity.run", *arguments, "--family", name]
        printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        rows += json.loads(printed.splitlines()[-1])
    study = Study("similarity", dataset="random representations", tokens=tokens, seed=0)
    result = {**describe(study), **settings, "note": note, "rows": rows}
    write_results(RESULTS, "similarity", result, as_markdown(result))


def as_markdown(result: dict[str, Any]) -> str:
    head = ["measure", "value", "seconds", "of these, after the sums", "memory beyond the representations, MB"]
    rows = [
        (
            row["measure"],
            "" if row["value"] is None else f"{row['value']:.4f}",
            f"{row['seconds']:.2f}",
            "" if row["after_sums"] is None else f"{row['after_sums']:.2f}",
            f"{row['peak_bytes'] / 1e6:,.0f}",
        )
        for row in result["rows"]
    ]
    lines = [
        f"{result['tokens']:,} tokens x {result['d']} dimensions, random, float32 (summed in float64); two "
        f"representations of {result['tokens'] * result['d'] * 4 / 1e6:,.0f} MB each, which the memory does not "
        "include. "
        f"{environment(result)} {result['note']}".strip(),
        "",
        *table(head, rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
