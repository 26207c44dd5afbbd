"""Measure what an ITDA costs beside a TopK SAE of ten times the tokens, harvests included.

    python -m benchmarks.comparison.cost

Both begin with an empty cache and may use all cores: the ITDA of configs/smollm2-135m.yaml by the command `fit`, from
its first harvested token until it is validated; the SAE by SAELens's trainer on ten times the tokens, with the settings
of layer14.yaml. Both harvest the same held-out tokens, too. Nothing is reused or scaled, so a run takes a quarter of an
hour; a busy machine spoils it. Loops that are compiled once per machine are there before. Writes results/cost.json and
results/cost.md.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli

import itda_lightning as il
from benchmarks.bundled import DATASET, MODEL
from benchmarks.results import Study, describe, environment, table, write_results
from itda_lightning.activations.models.model_name import LanguageModelName
from itda_lightning.fit import main as fit
from itda_lightning.saelens.training import train_sae
from itda_lightning.saelens.training_settings import TrainingSettings

HERE = Path(__file__).parent
CONFIG = HERE.parents[1] / "configs" / "smollm2-135m.yaml"
HOOK, T = "blocks.14.hook_resid_post", 65_536


def itda_seconds(directory: Path) -> dict[str, float]:
    """Fit by the command; return its seconds in parts."""
    cache, runs = directory / "cache", directory / "runs"
    run = fit(["--config", str(CONFIG), "--data.cache_dir", str(cache), "--run.directory", str(runs)])
    seconds: dict[str, Any] = json.loads((run / "metrics.json").read_text())["seconds"]
    made = seconds["all"] - seconds["harvest"]
    parts = {name: seconds[name] for name in ("harvest", "growth", "refinement")}
    return {**parts, "other": made - seconds["growth"] - seconds["refinement"], "all": seconds["all"]}


def sae_seconds(directory: Path) -> dict[str, float]:
    """Harvest ten times the tokens and train on them; return the seconds."""
    data = il.ActivationsDataModule(
        MODEL, [HOOK], DATASET, training_tokens=10 * T, validation_tokens=16_384, cache_dir=str(directory / "cache")
    )
    data.prepare_data()
    settings = TrainingSettings("topk", 4096, 32, samples=10 * T, tokens=10 * T, learning_rate=2e-3, batch_size=1024)
    trained = train_sae(settings, data, HOOK, directory / "sae")
    harvest = data.harvest_seconds
    return {"harvest": harvest, "training": trained.seconds, "all": harvest + trained.seconds}


def main(results: Path = HERE / "results", work: Path | None = None) -> None:
    """Run both, one after the other.

    Args:
        results: where results are written.
        work: directory for the caches, 2 GB; a temporary one by default.
    """
    x = torch.randn(512, 64, generator=torch.Generator().manual_seed(0))
    il.fit_activations(x, max_atoms=64, k=8, l0=4.0, pursuit="gomp", nonnegative=True, progress=False)
    made = {}
    for name, measured in (("ITDA, T", itda_seconds), ("TopK SAE, 10 T", sae_seconds)):
        with tempfile.TemporaryDirectory(dir=work) as directory:
            made[name] = measured(Path(directory))
    revision = LanguageModelName(MODEL).fingerprint()
    study = Study("comparison/cost", MODEL, revision, HOOK, DATASET, T, 0)
    content = {**describe(study), "seconds": made, "share": made["ITDA, T"]["all"] / made["TopK SAE, 10 T"]["all"]}
    write_results(results, "cost", content, as_markdown(content))


def as_markdown(result: dict[str, Any]) -> str:
    """Return the table."""
    head = ["entry", "all", "of which"]
    lines = [
        [name, f"{parts['all']:.0f} s", ", ".join(f"{part} {s:.0f} s" for part, s in parts.items() if part != "all")]
        for name, parts in result["seconds"].items()
    ]
    share = f"The ITDA takes {result['share']:.3f} of the SAE's time."
    subject = f"{result['model']}, {result['hook_name']}, {result['dataset']}, T = {result['tokens']:,}."
    return "\n".join([f"{subject} {environment(result)}", "", *table(head, lines), "", share, ""])


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
