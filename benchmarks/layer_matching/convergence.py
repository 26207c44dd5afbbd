"""Find which layers converge first in training (Raghu et al. 2017; Appendix A.4.2 of arXiv 2505.17769).

    python -m benchmarks.layer_matching.train
    python -m benchmarks.layer_matching.convergence [--seeds [0,1]]

The checkpoints of one training are compared as models (``python -m itda_lightning.similarity``), all on the same tokens
in the same order: every layer of every checkpoint beside the same layer at the end. Comparisons are kept, as by
run.py. Writes results/convergence.json, convergence.md and convergence.svg.
"""

from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

from benchmarks.layer_matching.run import RESULTS, compare, data_of, fit_of, hook_names, other_order
from benchmarks.layer_matching.train import DATASET, LAYERS
from benchmarks.results import Study, describe, write_results
from itda_lightning.across_models.similarity_settings import ModelSettings, SimilaritySettings
from itda_lightning.results.model_similarity import ModelSimilarity

MEASURES = ("jaccard", "cka", "debiased_cka", "svcca", "procrustes")


def compare_checkpoints(seed: int, tokens: int, directory: Path) -> ModelSimilarity:
    """Compare all layers of all checkpoints of one training, the last checkpoint last."""
    steps = sorted(int(path.name.removeprefix("step-")) for path in (directory / f"seed-{seed}").glob("step-*"))
    if len(steps) < 2:
        raise SystemExit(f"{directory} has no checkpoints of seed {seed}: run its train.py first")
    models = [
        ModelSettings(str(step), model=str(directory / f"seed-{seed}" / f"step-{step}"), hook_names=hook_names())
        for step in steps
    ]
    place = directory / "trained"
    settings = SimilaritySettings(
        models, str(place / f"checkpoints-{seed}-{tokens}-tokens"), measures=list(MEASURES), resamples=0
    )
    return compare(settings, data_of(tokens, place), fit_of(tokens))


def to_the_end(results: ModelSimilarity) -> dict[str, dict[int, list[float]]]:
    """Return measure -> step -> for each layer its similarity to itself at the end of training."""
    steps = [int(site.model) for site in results.sites[::LAYERS]]
    last = len(results.sites) - LAYERS
    return {
        one.measure: {
            step: [one.values[place * LAYERS + layer][last + layer] for layer in range(LAYERS)]
            for place, step in enumerate(steps)
        }
        for one in results.measured
    }


def main(seeds: tuple[int, ...] = (0, 1), tokens: int = 1024, directory: Path = Path("runs/layer-matching")) -> None:
    """Compare every checkpoint with the last one.

    Args:
        seeds: trainings.
        tokens: that the dictionaries are fitted on, and that activations are compared on.
        directory: of the models and the comparisons.
    """
    compared = {seed: compare_checkpoints(seed, tokens, directory) for seed in seeds}
    similarities = {seed: to_the_end(results) for seed, results in compared.items()}
    floors = [other_order(results) - results.chance for results in compared.values()]
    content = {
        **describe(Study("layer_matching/convergence", hook_name=hook_names(), dataset=DATASET, tokens=tokens)),
        "fit": fit_of(tokens),
        "atoms": {seed: results.atoms for seed, results in compared.items()},
        "excess of an index with another order": floors,
        "seeds": similarities,
    }
    write_results(RESULTS, "convergence", content, as_markdown(content), plot(means_of(content)))


def means_of(result: dict[str, Any]) -> dict[str, dict[int, list[float]]]:
    """Return measure -> step -> for each layer the mean over seeds."""
    seeds = list(result["seeds"].values())
    return {
        measure: {
            int(step): [sum(seed[measure][step][layer] for seed in seeds) / len(seeds) for layer in range(LAYERS)]
            for step in seeds[0][measure]
        }
        for measure in seeds[0]
    }


def as_markdown(result: dict[str, Any]) -> str:
    """Return one table per measure: steps by layers."""
    floors = result["excess of an index with another order"]
    lines = [
        "Similarity of each layer to itself at the end of training, mean of seeds "
        f"{', '.join(map(str, result['seeds']))}; {result['tokens']:,} tokens. The Jaccard index is over chance; with "
        f"a fit of the same layer in another order it is {sum(floors) / len(floors):.3f}."
    ]
    for measure, rows in means_of(result).items():
        lines += [
            "",
            f"**{measure}**",
            "",
            "| step | " + " | ".join(f"layer {layer}" for layer in range(LAYERS)) + " |",
        ]
        lines.append("|---" * (LAYERS + 1) + "|")
        lines += [f"| {step} | " + " | ".join(f"{value:.3f}" for value in row) + " |" for step, row in rows.items()]
    return "\n".join(lines) + "\n"


def plot(means: dict[str, dict[int, list[float]]]) -> Any:
    """Draw one panel per measure: similarity to the end against steps, one line per layer."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure  # of the extra `benchmarks`, which tests do without

    figure = Figure(figsize=(3 * len(means), 3.4), layout="constrained")
    panels: Any = figure.subplots(1, len(means), squeeze=False)[0]
    shades = colormaps["viridis"]
    for panel, (measure, rows) in zip(panels, means.items(), strict=True):
        for layer in range(LAYERS):
            values = [row[layer] for row in rows.values()]
            panel.plot(values, marker=".", color=shades(layer / (LAYERS - 1)), label=f"layer {layer}")
        # Checkpoints are twice as late each time.
        panel.set_xticks(range(len(rows)), list(rows))
        panel.set(title=measure, xlabel="step", ylim=(0, 1.02))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=LAYERS)
    return figure


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
