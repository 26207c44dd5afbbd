"""Layer matching between models that differ in their seed: how often does each measure find the same layer of another model?

    python benchmarks/layer_matching/train.py
    python benchmarks/layer_matching/run.py [--tokens [4096, 16384]]
    python benchmarks/layer_matching/run.py --family stanford    # stanford-crfm's five GPT-2 seeds, from the hub

Every budget of tokens is one comparison (``python -m itda_lightning.similarity``) of all layers of all models: ITDAs are
fitted on so many tokens of documents that the models were trained on, and activations are compared on as many of those that they
were not. Each comparison is kept below ``directory`` with its page; a budget that is there is not compared again. Writes
results/FAMILY.json and FAMILY.md.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from jsonargparse import auto_cli
from train import CONTEXT, DATASET, HOLDOUT_FRACTION, LAYERS

from itda_lightning.atomic_files import write_text
from itda_lightning.evaluation.results_json import from_json, to_json
from itda_lightning.report.similarity_page import write_similarity
from itda_lightning.run_directory import versions_and_hardware
from itda_lightning.similarity.models.results import ModelSimilarity
from itda_lightning.similarity.models.settings import MEASURES, ModelSettings, SimilaritySettings
from itda_lightning.similarity.models.study import compare_models

RESULTS = Path(__file__).parent / "results"
BUDGETS = (4096, 16_384, 65_536, 262_144, 1_048_576)
STANFORD = ("alias-gpt2-small-x21", "battlestar-gpt2-small-x49", "caprica-gpt2-small-x81", "darkmatter-gpt2-small-x343")
STANFORD_LAST = "expanse-gpt2-small-x777"
MOST_ATOMS, SHARE_OF_ATOMS = 1024, 1 / 8  # of a dictionary: as many, and no more than so large a share of the tokens
SPARSITY = 16


def models_of(family: str, directory: Path) -> tuple[list[ModelSettings], dict[str, Any]]:
    """The models, and what of their training there is to tell."""
    if family == "stanford":
        hooks = [f"blocks.{layer}.hook_resid_post" for layer in range(12)]
        names = [f"stanford-crfm/{name}" for name in (*STANFORD, STANFORD_LAST)]
        return [ModelSettings(name.split("/")[1], model=name, hook_names=hooks) for name in names], {}
    trained = sorted(directory.glob("seed-*/training.json"))
    if len(trained) < 2:
        raise SystemExit(
            f"{directory} holds {len(trained)} trained models: run benchmarks/layer_matching/train.py first"
        )
    hooks = [f"blocks.{layer}.hook_resid_post" for layer in range(LAYERS)]
    facts = {path.parent.name: json.loads(path.read_text()) for path in trained}
    models = [
        ModelSettings(name, model=str(directory / name / f"step-{one['steps']}"), hook_names=hooks)
        for name, one in facts.items()
    ]
    return models, facts


def compare(models: list[ModelSettings], tokens: int, directory: Path, orders: int, resamples: int) -> ModelSimilarity:
    finished = directory / f"{len(models)}-models-{tokens}-tokens" / "similarity.json"
    if finished.exists():
        return from_json(finished.read_text(encoding="utf-8"), ModelSimilarity)
    settings = SimilaritySettings(
        models,
        str(finished.parent),
        measures=list(MEASURES),
        orders=orders,
        resamples=resamples,
        anchors=min(300, tokens // 4),
    )
    data = {
        "dataset": DATASET,
        "holdout_fraction": HOLDOUT_FRACTION,
        "context_size": CONTEXT,
        "training_tokens": tokens,
        "validation_tokens": tokens,
        "cache_dir": str(directory / "activations"),
    }
    fit = {"max_atoms": min(MOST_ATOMS, int(tokens * SHARE_OF_ATOMS)), "k": SPARSITY}
    results = compare_models(settings, data, fit)
    write_text(finished, to_json(results))
    write_similarity(results, finished.parent / "similarity.html")
    return results


def main(
    family: Literal["trained", "stanford"] = "trained",
    tokens: Sequence[int] = BUDGETS,
    directory: Path = Path("runs/layer-matching"),
    orders: int = 1,
    resamples: int = 20,
) -> None:
    """Compare at every budget.

    Args:
        family: the models that train.py made, or five GPT-2 small of stanford-crfm.
        tokens: budgets.
        directory: of the models and the comparisons.
        orders: fits of each dictionary in other orders, for the noise floor.
        resamples: of documents, for standard errors.
    """
    models, training = models_of(family, directory)
    compared = {budget: compare(models, budget, directory / family, orders, resamples) for budget in tokens}
    rows = [
        {
            "tokens": budget,
            "atoms": results.atoms,
            "chance": results.chance,
            "measure": one.measure,
            "accuracy": one.accuracy,
            "accuracy_error": one.accuracy_error,
            "paper_accuracy": one.paper_accuracy,
            "seconds": one.seconds,
        }
        for budget, results in compared.items()
        for one in results.measured
    ]
    facts = next(iter(compared.values())).facts
    content = {"facts": facts, "training": training, "rows": rows, "environment": versions_and_hardware()}
    write_text(RESULTS / f"{family}.json", json.dumps(content, indent=1) + "\n")
    write_text(RESULTS / f"{family}.md", as_markdown(compared, training))


def as_markdown(compared: dict[int, ModelSimilarity], training: dict[str, Any]) -> str:
    """Accuracies by measure and tokens, the noise floor, and what the measures cost."""
    first = next(iter(compared.values()))
    sites = len(first.sites) // len({site.model for site in first.sites})
    lines = [f"{len({site.model for site in first.sites})} models of {sites} layers each; {DATASET}.", ""]
    for name, one in training.items():
        lines.append(
            f"- {name}: {one['parameters']:,} parameters, {one['training_tokens']:,} tokens, held-out loss "
            f"{one['held_out_loss']:.3f} nats a token."
        )
    lines += ["", f"Accuracy (chance {1 / sites:.3f}), self-pairs left out, ± resampled documents:", ""]
    lines.append("| measure | " + " | ".join(f"{budget:,} tokens" for budget in compared) + " |")
    lines.append("|---" * (len(compared) + 1) + "|")
    for place, one in enumerate(first.measured):
        cells = [
            f"{results.measured[place].accuracy:.3f} ± {results.measured[place].accuracy_error:.3f}"
            for results in compared.values()
        ]
        lines.append(f"| {one.measure} | " + " | ".join(cells) + " |")
    lines += ["", "| | " + " | ".join(f"{budget:,} tokens" for budget in compared) + " |"]
    lines.append("|---" * (len(compared) + 1) + "|")
    lines.append("| atoms of each dictionary | " + " | ".join(f"{r.atoms:,}" for r in compared.values()) + " |")
    lines.append("| Jaccard by chance | " + " | ".join(f"{r.chance:.4f}" for r in compared.values()) + " |")
    lines.append("| Jaccard with a fit in another order, mean | " + " | ".join(map(_floor, compared.values())) + " |")
    lines += ["", "Seconds of each measure, all pairs and resamples, at the largest budget:", ""]
    lines += [f"- {one.measure}: {one.seconds:.1f}" for one in list(compared.values())[-1].measured]
    return "\n".join(lines) + "\n"


def _floor(results: ModelSimilarity) -> str:
    overlaps = [one.overlaps[0].jaccard for one in results.reordered if one.hook_name is not None and one.overlaps]
    return f"{sum(overlaps) / len(overlaps):.4f}" if overlaps else ""


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
