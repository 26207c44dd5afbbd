"""Measure how often each measure finds the same layer of a model that differs in its seed.

    python -m benchmarks.layer_matching.train
    python -m benchmarks.layer_matching.run [--tokens [4096,16384]]
    python -m benchmarks.layer_matching.run --family stanford    # stanford-crfm's five GPT-2 seeds, from the hub

Every budget of tokens is one comparison (``python -m itda_lightning.similarity``) of all layers of all models: ITDAs
are fitted on so many tokens of documents that the models were trained on, and activations are compared on as many of
those that they were not; on the largest budgets activations only. Each comparison is kept below ``directory`` with its
page; a budget that is there is not compared again. Errors are jackknifed over models. Writes results/FAMILY.json,
FAMILY.md and FAMILY.svg.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import auto_cli

from benchmarks.layer_matching.accuracy import (
    accuracy_by_layer,
    accuracy_over_models,
    lead_of_the_same_layer,
    share_within_one,
)
from benchmarks.layer_matching.train import CONTEXT, DATASET, HOLDOUT_FRACTION, LAYERS
from benchmarks.results import Study, describe, write_results
from itda_lightning.across_models.similarity_settings import MEASURES, ModelSettings, SimilaritySettings
from itda_lightning.across_models.similarity_study import compare_models
from itda_lightning.machine.atomic_files import write_text
from itda_lightning.report.pages.model_pages import write_similarity
from itda_lightning.results.as_json import from_json, to_json
from itda_lightning.results.model_similarity import ModelSimilarity

RESULTS = Path(__file__).parent / "results"
BUDGETS = (1024, 2048, 4096, 16_384, 65_536, 1_048_576)
# With more tokens choices.py grows the dictionaries: a sample that calibrates in minutes would miss their size by far.
MOST_TOKENS_OF_DICTIONARIES = 16_384
STANFORD = ("alias-gpt2-small-x21", "battlestar-gpt2-small-x49", "caprica-gpt2-small-x81", "darkmatter-gpt2-small-x343")
STANFORD_LAST = "expanse-gpt2-small-x777"
MOST_ATOMS, SHARE_OF_ATOMS = 4096, 1 / 8  # of a dictionary: as many, and no more than so large a share of the tokens
SPARSITY = 16
CALIBRATION_TOKENS = 4096


def models_of(family: str, directory: Path) -> tuple[list[ModelSettings], dict[str, Any]]:
    """Return the models and the facts of their training."""
    if family == "stanford":
        hooks = [f"blocks.{layer}.hook_resid_post" for layer in range(12)]
        names = [f"stanford-crfm/{name}" for name in (*STANFORD, STANFORD_LAST)]
        return [ModelSettings(name.split("/")[1], model=name, hook_names=hooks) for name in names], {}
    trained = sorted(directory.glob("seed-*/training.json"))
    if len(trained) < 3:
        raise SystemExit(
            f"{directory} holds {len(trained)} trained models, of which no error could be told: run "
            "`python -m benchmarks.layer_matching.train` first"
        )
    facts = {path.parent.name: json.loads(path.read_text()) for path in trained}
    models = [
        ModelSettings(name, model=str(directory / name / f"step-{one['steps']}"), hook_names=hook_names())
        for name, one in facts.items()
    ]
    return models, facts


def hook_names() -> list[str]:
    """Return the hook points of all layers of the models from train.py."""
    return [f"blocks.{layer}.hook_resid_post" for layer in range(LAYERS)]


def data_of(tokens: int, directory: Path, dataset: str = DATASET) -> dict[str, Any]:
    """Return the data settings that all models of a comparison share; activations are cached in the directory."""
    return {
        "dataset": dataset,
        "holdout_fraction": HOLDOUT_FRACTION,
        "context_size": CONTEXT,
        "training_tokens": tokens,
        "validation_tokens": tokens,
        "cache_dir": str(directory / "activations"),
    }


def fit_of(tokens: int) -> dict[str, Any]:
    """Return the settings of the fit of one dictionary."""
    atoms = min(MOST_ATOMS, int(tokens * SHARE_OF_ATOMS))
    return {"max_atoms": atoms, "k": SPARSITY, "calibration_tokens": CALIBRATION_TOKENS}


def measures_at(tokens: int) -> list[str]:
    """Return the measures at a budget: all, or only those of activations."""
    return [name for name in MEASURES if tokens <= MOST_TOKENS_OF_DICTIONARIES or "jaccard" not in name]


def compare(settings: SimilaritySettings, data: dict[str, Any], fit: dict[str, Any]) -> ModelSimilarity:
    """Compare and keep the results and the page; results that exist are only read."""
    finished = Path(settings.directory) / "similarity.json"
    if finished.exists():
        return from_json(finished.read_text(encoding="utf-8"), ModelSimilarity)
    results = compare_models(settings, data, fit)
    write_text(finished, to_json(results))
    write_similarity(results, finished.parent / "similarity.html")
    return results


def compare_at(
    models: list[ModelSettings], tokens: int, directory: Path, orders: int, dataset: str = DATASET
) -> ModelSimilarity:
    """Compare by all measures at one budget."""
    settings = SimilaritySettings(
        models,
        str(directory / f"{len(models)}-models-{tokens}-tokens"),
        measures=measures_at(tokens),
        orders=orders if tokens <= MOST_TOKENS_OF_DICTIONARIES else 0,
        resamples=0,
        anchors=min(300, tokens // 4),
        queries=min(1000, tokens // 2),
    )
    return compare(settings, data_of(tokens, directory, dataset), fit_of(tokens))


def main(
    family: Literal["trained", "stanford"] = "trained",
    tokens: Sequence[int] = BUDGETS,
    directory: Path = Path("runs/layer-matching"),
    orders: int = 1,
    dataset: str = DATASET,
    name: str = "",
) -> None:
    """Compare at every budget.

    Args:
        family: the models that train.py made, or five GPT-2 small of stanford-crfm.
        tokens: budgets.
        directory: of the models and the comparisons.
        orders: fits of each dictionary in other orders, for the noise floor.
        dataset: whose training half the models were trained on.
        name: of the results; that of the family by default.
    """
    models, training = models_of(family, directory)
    compared = {budget: compare_at(models, budget, directory / family, orders, dataset) for budget in tokens}
    rows = [row for budget, results in compared.items() for row in rows_of(budget, results)]
    content = {
        **describe(Study("layer_matching", model=family, hook_name=hook_names(), dataset=Path(dataset).name)),
        "facts": next(iter(compared.values())).facts,
        "training": training,
        "fits": {budget: fit_of(budget) for budget in tokens if budget <= MOST_TOKENS_OF_DICTIONARIES},
        "rows": rows,
    }
    figure = plot(rows, 1 / layers_of(next(iter(compared.values()))))
    write_results(RESULTS, name or family, content, as_markdown(compared, rows, training, Path(dataset).name), figure)


def rows_of(budget: int, results: ModelSimilarity) -> list[dict[str, Any]]:
    """Return one row per measure: its accuracy at one budget, with facts of the dictionaries."""
    rows = []
    for one in results.measured:
        values = torch.tensor(one.values, dtype=torch.float64)
        accuracy, error = accuracy_over_models(values, models_in(results))
        lead, spread = lead_of_the_same_layer(values, models_in(results))
        rows.append(
            {
                "tokens": budget,
                "measure": one.measure,
                "accuracy": accuracy,
                "error": error,
                "by_layer": accuracy_by_layer(values, models_in(results)),
                "within_one": share_within_one(values, models_in(results)),
                "lead": lead,
                "spread": spread,
                "paper_accuracy": one.paper_accuracy,
                "seconds": one.seconds,
                "atoms": results.atoms,
                "chance_index": results.chance,
                "other_order_index": other_order(results),
            }
        )
    return rows


def models_in(results: ModelSimilarity) -> int:
    return len({site.model for site in results.sites})


def layers_of(results: ModelSimilarity) -> int:
    return len(results.sites) // models_in(results)


def other_order(results: ModelSimilarity) -> float:
    """Return the mean Jaccard index of two dictionaries of one layer that read the tokens in different orders."""
    found = [one.overlaps[0].jaccard for one in results.reordered if one.hook_name is not None]
    return sum(found) / len(found) if found else float("nan")


def as_markdown(
    compared: dict[int, ModelSimilarity],
    rows: list[dict[str, Any]],
    training: dict[str, Any],
    dataset: str = DATASET,
) -> str:
    """Return tables of accuracies by measure and tokens, of the noise floor and of the cost."""
    first = next(iter(compared.values()))
    lines = [
        f"{models_in(first)} models of {layers_of(first)} layers each; {dataset}, contexts of {CONTEXT} tokens.",
        "",
    ]
    for name, one in training.items():
        lines.append(
            f"- {name}: {one['parameters']:,} parameters, {one['training_tokens']:,} tokens, held-out loss "
            f"{one['held_out_loss']:.3f} nats per token."
        )
    lines += [
        "",
        f"Accuracy without self-pairs ± standard error over models (chance {1 / layers_of(first):.3f}):",
        "",
        *_table("measure", compared, rows, lambda row: f"{row['accuracy']:.3f} ± {row['error']:.3f}"),
        "",
        "How often the layer found is the same one or next to it:",
        "",
        *_table("measure", compared, rows, lambda row: f"{row['within_one']:.3f}"),
        "",
        "By how much the same layer is more similar than the ones next to it, and the standard deviation of a "
        "similarity over pairs of models:",
        "",
        *_table("measure", compared, rows, lambda row: f"{row['lead']:.4f}, {row['spread']:.4f}"),
        "",
        "Accuracy layer by layer, on the most tokens that dictionaries were grown from:",
        "",
        *_by_layer(rows, layers_of(first)),
        "",
        "Accuracy in the paper's form (Eq. 9, every model also paired with itself, which is always right):",
        "",
        *_table("measure", compared, rows, lambda row: f"{row['paper_accuracy']:.3f}"),
        "",
        "Seconds of each measure for all pairs of sites, without the sums that measures of moments share:",
        "",
        *_table("measure", compared, rows, lambda row: f"{row['seconds']:.1f}"),
    ]
    sums = [results.facts["seconds of the sums that measures of moments share"] for results in compared.values()]
    lines.append("| shared sums | " + " | ".join(sums) + " |")
    compared = {budget: results for budget, results in compared.items() if results.atoms}
    lines += ["", *_head("", compared)]
    lines.append("| atoms of each dictionary | " + " | ".join(f"{one.atoms:,}" for one in compared.values()) + " |")
    lines.append("| Jaccard index by chance | " + " | ".join(f"{one.chance:.3f}" for one in compared.values()) + " |")
    floors = [f"{other_order(one):.3f}" for one in compared.values()]
    lines.append("| Jaccard index with the same layer in another order | " + " | ".join(floors) + " |")
    return "\n".join(lines) + "\n"


def _head(name: str, compared: dict[int, ModelSimilarity]) -> list[str]:
    return [
        f"| {name} | " + " | ".join(f"{budget:,} tokens" for budget in compared) + " |",
        "|---" * (len(compared) + 1) + "|",
    ]


def _table(name: str, compared: dict[int, ModelSimilarity], rows: list[dict[str, Any]], cell: Any) -> list[str]:
    lines = _head(name, compared)
    for measure in MEASURES:
        if not (cells := {row["tokens"]: cell(row) for row in rows if row["measure"] == measure}):
            continue
        lines.append(f"| {measure} | " + " | ".join(cells.get(budget, "") for budget in compared) + " |")
    return lines


def _by_layer(rows: list[dict[str, Any]], layers: int) -> list[str]:
    most = max((row["tokens"] for row in rows if row["measure"] == "jaccard"), default=rows[-1]["tokens"])
    lines = [f"| {most:,} tokens | " + " | ".join(map(str, range(layers))) + " |", "|---" * (layers + 1) + "|"]
    for row in rows:
        if row["tokens"] == most:
            cells = [f"{share:.2f}" for share in row["by_layer"]]
            lines.append(f"| {row['measure']} | " + " | ".join(cells) + " |")
    return lines


def plot(rows: list[dict[str, Any]], chance: float) -> Any:
    """Draw accuracy against tokens, one line per measure."""
    from matplotlib.figure import Figure  # of the extra `benchmarks`, which tests do without

    figure = Figure(figsize=(8, 5), layout="constrained")
    panel = figure.subplots()
    for number, measure in enumerate(MEASURES):
        points = [row for row in rows if row["measure"] == measure]
        # A little beside each other, so that errors can be told apart.
        tokens = [row["tokens"] * 1.02 ** (number - len(MEASURES) / 2) for row in points]
        accuracies, errors = [row["accuracy"] for row in points], [row["error"] for row in points]
        marker, width = ("o", 2.5) if "jaccard" in measure else (".", 1)
        panel.errorbar(tokens, accuracies, errors, label=measure, elinewidth=0.6, marker=marker, linewidth=width)
    panel.axhline(chance, color="gray", linestyle=":", label="chance")
    budgets = sorted({row["tokens"] for row in rows})
    panel.set_xscale("log", base=2)
    panel.set_xticks(budgets, [f"{budget:,}" for budget in budgets])
    panel.set(xlabel="tokens", ylabel="layers matched", ylim=(0, 1))
    figure.legend(loc="outside right center")
    return figure


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
