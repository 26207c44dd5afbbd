"""Measure what mutual nearest neighbours cost, beside a search in float64 throughout and scikit-learn's.

    python -m benchmarks.similarity.neighbours [--note "what else the machine did"]

Two layers of the bundled model, the same queries. Batches of reference tokens are searched one after another, by each
search in turn, so seconds compare within a row; the median of the batches is what one more batch costs, and from it
follows what a study of many layers and tokens takes. The search in float64 is this package's until version 0.1. The
share of common neighbours is also measured among fewer candidates. Writes results/neighbours.json and neighbours.md.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from benchmarks.bundled import bundled_data, study_of
from benchmarks.results import describe, environment, table, write_results
from itda_lightning.measures import mutual_neighbours, neighbours_null
from itda_lightning.measures.aligned import BLOCK_ROWS, directions
from itda_lightning.measures.neighbours import Neighbours

RESULTS = Path(__file__).parent / "results"
STEPS, PLACES = 2**40, 2**22


class InFloat64:
    """The k nearest tokens of each query by float64 cosines with all tokens, as version 0.1 searched them."""

    def __init__(self, queries: Tensor, k: int, places: Tensor) -> None:
        self.queries, self.n, self._places = queries, 0, places
        self.tokens = torch.full((len(queries), k), -1)
        self._steps = torch.full_like(self.tokens, -STEPS - 1)

    def update(self, reference: Tensor) -> None:
        count, k = len(reference), self.tokens.shape[1]
        unit, order = directions(reference), torch.arange(k + count)
        for rows in torch.arange(len(self.queries)).split(1024):
            steps = ((directions(self.queries[rows]) @ unit.T) * STEPS).round_().long()
            own = self._places[rows] - self.n
            here = ((own >= 0) & (own < count)).nonzero().squeeze(1)
            steps[here, own[here]] = -STEPS - 1
            steps = torch.cat([self._steps[rows], steps], dim=1)
            best = (steps * PLACES - order).topk(k, dim=1).indices
            tokens = torch.cat([self.tokens[rows], torch.arange(self.n, self.n + count).expand(len(steps), -1)], dim=1)
            self._steps[rows], self.tokens[rows] = steps.gather(1, best), tokens.gather(1, best)
        self.n += count


def by_scikit_learn(reference: Tensor, queries: Tensor, k: int) -> None:
    model = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute")
    model.fit(reference.numpy()).kneighbors(queries.numpy())


def timed(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def cost(x: Tensor, queries: Tensor, k: int) -> tuple[dict[str, list[float]], bool]:
    """Return the seconds of each search by batch, and whether ours and that in float64 found the same neighbours."""
    ours, whole = Neighbours(x[queries], k, queries), InFloat64(x[queries], k, queries)
    seconds: dict[str, list[float]] = {"ours": [], "float64": [], "scikit-learn": []}
    chosen = x[queries]
    for batch in x.split(BLOCK_ROWS):
        seconds["float64"].append(timed(partial(whole.update, batch)))
        seconds["ours"].append(timed(partial(ours.update, batch)))
        seconds["scikit-learn"].append(timed(partial(by_scikit_learn, batch, chosen, k)))
    return seconds, torch.equal(ours.tokens, whole.tokens)


def among_candidates(x: Tensor, y: Tensor, queries: int, k: int, counts: list[int], draws: int) -> list[dict[str, Any]]:
    """Return the share of common neighbours among that many tokens, mean and spread over draws of them."""
    rows = []
    for count in counts:
        values = []
        for draw in range(draws):
            order = torch.randperm(len(x), generator=torch.Generator().manual_seed(draw))[:count]
            values.append(mutual_neighbours(x[order], y[order], k, torch.arange(min(queries, count))))
        mean, null = statistics.mean(values), neighbours_null(k, count)
        spread = statistics.stdev(values)
        rows.append({"candidates": count, "share": mean, "over draws": spread, "by chance": null})
    return rows


def main(
    tokens: int = 32_768,
    queries: int = 1000,
    k: int = 10,
    hook_names: tuple[str, str] = ("blocks.4.hook_resid_post", "blocks.14.hook_resid_post"),
    counts: tuple[int, ...] = (1024, 4096, 16_384, 32_000),
    draws: int = 3,
    layers: int = 40,
    many_tokens: int = 1_000_000,
    candidates: int = 100_000,
    cache_dir: str = "~/.cache/itda_lightning/activations",
    seed: int = 0,
    note: str = "",
) -> None:
    """Run the benchmark and write its results."""
    data = bundled_data(hook_names, tokens, 4096, cache_dir, seed)
    data.setup("fit")
    x, y = (torch.cat([b.activations[hook] for b in data.train_dataloader()]).float() for hook in hook_names)
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:queries].sort().values
    rows: list[dict[str, Any]] = []
    for hook, activations in zip(hook_names, (x, y), strict=True):
        seconds, same = cost(activations, chosen, k)
        # The first batch has no neighbours to screen by, the last one is smaller.
        medians = {name: statistics.median(values[1:-1]) for name, values in seconds.items()}
        rows.append({"hook_name": hook, "same": same, "per_batch": medians, "first_batch": seconds["ours"][0]})
    per_batch = {name: statistics.mean(row["per_batch"][name] for row in rows) for name in rows[0]["per_batch"]}
    batches = {"all": many_tokens / BLOCK_ROWS, "candidates": candidates / BLOCK_ROWS}
    result = {
        **describe(study_of("similarity/neighbours", data, ", ".join(hook_names))),
        "activations": len(x),
        "width": x.shape[1],
        "queries": queries,
        "k": k,
        "note": note,
        "rows": rows,
        "ratio": per_batch["float64"] / per_batch["ours"],
        "projected": {
            "layers": layers,
            "tokens": many_tokens,
            "candidates": candidates,
            "float64": layers * batches["all"] * per_batch["float64"],
            "ours": layers * batches["all"] * per_batch["ours"],
            "ours, candidates": layers * batches["candidates"] * per_batch["ours"],
        },
        "by_candidates": among_candidates(x, y, queries, k, [min(count, len(x)) for count in counts], draws),
    }
    result["projected"]["share"] = result["projected"]["ours, candidates"] / result["projected"]["float64"]
    write_results(RESULTS, "neighbours", result, as_markdown(result))


def as_markdown(result: dict[str, Any]) -> str:
    projected = result["projected"]
    lines = [
        f"{result['model']} ({result['revision'][:12]}), {result['dataset']}, {result['activations']:,} activations of "
        f"{result['width']} dimensions, {result['k']} nearest of {result['queries']:,} queries. "
        f"{environment(result)} {result['note']}".strip(),
        "",
        *table(
            ["hook point", "float64 throughout, s", "scikit-learn, s", "ours, s", "times as fast", "same neighbours"],
            (
                (
                    row["hook_name"],
                    *(f"{row['per_batch'][name]:.3f}" for name in ("float64", "scikit-learn", "ours")),
                    f"{row['per_batch']['float64'] / row['per_batch']['ours']:.1f}",
                    "yes" if row["same"] else "no",
                )
                for row in result["rows"]
            ),
        ),
        "",
        f"Medians per batch of {BLOCK_ROWS:,} tokens. Of {projected['layers']} layers at {projected['tokens']:,} "
        f"tokens, scaled by the number of batches, not measured: {projected['float64']:,.0f} s in float64, "
        f"{projected['ours']:,.0f} s ours, {projected['ours, candidates']:,.0f} s with {projected['candidates']:,} "
        f"candidates, {projected['share']:.3f} of the first; without reading the activations.",
        "",
        *table(
            ["candidates", "share in common", "standard deviation over draws", "by chance"],
            (
                (f"{row['candidates']:,}", *(f"{row[name]:.4f}" for name in ("share", "over draws", "by chance")))
                for row in result["by_candidates"]
            ),
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
