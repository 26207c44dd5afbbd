"""Compare what measures expect of permuted tokens with the mean over permutations that are carried out.

    python -m benchmarks.similarity.nulls [--note "what else the machine did"]

Two layers of the bundled model, few tokens and more: each measure, what it gives of permuted tokens by its closed form
or by draws from the sums, the mean over permutations of the tokens themselves with its standard error, and the excess.
A few tokens of language models have thousands of times the energy of the others, which a closed form does not mind, but
draws could. Writes results/nulls.json and nulls.md.
"""

import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from torch import Tensor

from benchmarks.bundled import bundled_data, study_of
from benchmarks.results import describe, environment, table, write_results
from itda_lightning import measures
from itda_lightning.across_models.permuted_pairs import NULLS
from itda_lightning.across_models.representation_comparison import OF_MOMENTS
from itda_lightning.across_models.sampled_comparison import SAMPLED
from itda_lightning.measures import CrossMoments, RelativeSimilarity, excess, null_of

RESULTS = Path(__file__).parent / "results"


def of_sums(
    x: Tensor, y: Tensor, orders: list[Tensor], names: list[str]
) -> dict[str, tuple[float, float, list[float]]]:
    """Return value, null and values of permutations of each measure of moments."""
    moments = CrossMoments.of(x, y)
    permuted = [CrossMoments.of(x, y[order]) for order in orders]
    return {
        name: (
            OF_MOMENTS[name](moments),
            NULLS[name](moments) if name in NULLS else null_of(OF_MOMENTS[name], moments),
            [OF_MOMENTS[name](one) for one in permuted],
        )
        for name in names
    }


def of_rows(x: Tensor, y: Tensor, orders: list[Tensor], anchors: int, k: int) -> dict[str, Any]:
    """Return the same of measures of the tokens themselves."""
    results: dict[str, Any] = {}
    for name, measure in SAMPLED.items():
        if name == "aligned_cosine" and len(x) <= x.shape[1]:
            continue
        once, a, b = torch.ones(1, len(x), dtype=torch.float64), measure.prepare(x, k), measure.prepare(y, k)
        values = [float(measure.compare(a, measure.prepare(y[order], k), once)) for order in orders]
        results[name] = float(measure.compare(a, b, once)), measure.null(a, b), values
    relative = RelativeSimilarity(x[:anchors], y[:anchors])
    relative.update(x, y)
    chosen = torch.arange(anchors)
    results["relative"] = (
        relative.compute(),
        relative.null(),
        [measures.relative_similarity(x, y[order], chosen) for order in orders],
    )
    near = partial(measures.mutual_neighbours, x, k=k)
    results["neighbours"] = near(y), measures.neighbours_null(k, len(x)), [near(y[order]) for order in orders]
    return results


def main(
    tokens: int = 32_768,
    few: int = 1000,
    many: int = 8192,
    permutations: int = 20,
    anchors: int = 300,
    k: int = 10,
    hook_names: tuple[str, str] = ("blocks.4.hook_resid_post", "blocks.14.hook_resid_post"),
    cache_dir: str = "~/.cache/itda_lightning/activations",
    seed: int = 0,
    note: str = "",
) -> None:
    """Run the benchmark and write its results."""
    data = bundled_data(hook_names, tokens, 4096, cache_dir, seed)
    data.setup("fit")
    whole = [torch.cat([b.activations[hook] for b in data.train_dataloader()]).float() for hook in hook_names]
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for count in (few, many):
        drawn = torch.randperm(len(whole[0]), generator=generator)[:count]
        x, y = (one[drawn] for one in whole)
        orders = [torch.randperm(count, generator=generator) for _ in range(permutations)]
        names = [name for name in OF_MOMENTS if count > 2 * x.shape[1] or name not in ("pwcca", "svcca")]
        found = of_sums(x, y, orders, names)
        if count == few:
            found |= of_rows(x, y, orders, anchors, k)
        for name, (value, null, values) in found.items():
            error = statistics.stdev(values) / len(values) ** 0.5
            mean = statistics.mean(values)
            row = {"tokens": count, "measure": name, "value": value, "null": null, "permuted": mean, "error": error}
            rows.append({**row, "excess": excess(value, null)})
    result = {
        **describe(study_of("similarity/nulls", data, ", ".join(hook_names))),
        "permutations": permutations,
        "note": note,
        "rows": rows,
    }
    write_results(RESULTS, "nulls", result, as_markdown(result))


def as_markdown(result: dict[str, Any]) -> str:
    rows = (
        (
            f"{row['tokens']:,}",
            row["measure"],
            f"{row['value']:.4f}",
            f"{row['null']:.4f}",
            f"{row['permuted']:.4f} ± {row['error']:.4f}",
            f"{row['excess']:.4f}",
        )
        for row in result["rows"]
    )
    lines = [
        f"{result['model']} ({result['revision'][:12]}), {result['hook_name']}, {result['dataset']}, seed "
        f"{result['seed']}; mean and standard error of {result['permutations']} permutations. "
        f"{environment(result)} {result['note']}".strip(),
        "",
        *table(["tokens", "measure", "value", "expected of permuted tokens", "permutations", "excess"], rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
