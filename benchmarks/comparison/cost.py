"""Measure what an ITDA costs beside a TopK SAE of ten times the tokens, harvests included.

    python -m benchmarks.comparison.cost [--tokens 8192 --results DIRECTORY]

All begin with an empty cache and may use all cores: the ITDA of configs/smollm2-135m.yaml by the command `fit`, from
its first harvested token until it is validated; the SAE by SAELens's trainer on ten times the tokens, with the settings
of layer14.yaml, once on activations that this package harvests, as the ITDA's and with the same held-out tokens, and
once by SAELens's own runner, which reads the model as it trains and holds nothing out. Nothing is reused or scaled, so
a run takes half an hour; a busy machine spoils it. Models are loaded, and loops that are compiled once per machine
compiled, before. Writes results/cost.json and results/cost.md.
"""

import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli

import itda_lightning as il
from benchmarks.bundled import DATASET, MODEL
from benchmarks.comparison.saelens_runner import runner_seconds
from benchmarks.results import Study, describe, environment, table, write_results
from itda_lightning.activations.models.model_name import LanguageModelName
from itda_lightning.fit import main as fit
from itda_lightning.saelens.training import train_sae
from itda_lightning.saelens.training_settings import TrainingSettings

HERE = Path(__file__).parent
CONFIG = HERE.parents[1] / "configs" / "smollm2-135m.yaml"
HOOK, T = "blocks.14.hook_resid_post", 65_536
ITDA, SAE, RUNNER = "ITDA, T", "TopK SAE, 10 T", "TopK SAE, 10 T, by SAELens's runner"


def itda_seconds(tokens: int, directory: Path) -> dict[str, float]:
    """Fit by the command; return its seconds in parts."""
    cache, runs = directory / "cache", directory / "runs"
    data = ["--data.training_tokens", str(tokens), "--data.cache_dir", str(cache)]
    run = fit(["--config", str(CONFIG), *data, "--run.directory", str(runs)])
    seconds: dict[str, Any] = json.loads((run / "metrics.json").read_text())["seconds"]
    made = seconds["all"] - seconds["harvest"]
    parts = {name: seconds[name] for name in ("harvest", "growth", "refinement")}
    return {**parts, "other": made - seconds["growth"] - seconds["refinement"], "all": seconds["all"]}


def settings_of(tokens: int) -> TrainingSettings:
    """Return the settings of an SAE on ten times the tokens."""
    samples = 10 * tokens
    return TrainingSettings("topk", 4096, 32, samples=samples, tokens=samples, learning_rate=2e-3, batch_size=1024)


def sae_seconds(tokens: int, directory: Path) -> dict[str, float]:
    """Harvest ten times the tokens and train on them; return the seconds."""
    cache = str(directory / "cache")
    data = il.ActivationsDataModule(
        MODEL, [HOOK], DATASET, training_tokens=10 * tokens, validation_tokens=16_384, cache_dir=cache
    )
    data.prepare_data()
    trained = train_sae(settings_of(tokens), data, HOOK, directory / "sae")
    harvest = data.harvest_seconds
    return {"harvest": harvest, "training": trained.seconds, "all": harvest + trained.seconds}


def main(results: Path = HERE / "results", work: Path | None = None, tokens: int = T) -> None:
    """Run all, one after the other.

    Args:
        results: where results are written.
        work: directory for the caches, 2 GB; a temporary one by default.
        tokens: T.
    """
    x = torch.randn(512, 64, generator=torch.Generator().manual_seed(0))
    il.fit_activations(x, max_atoms=64, k=8, l0=4.0, pursuit="gomp", nonnegative=True, progress=False)
    by_runner = partial(runner_seconds, settings_of(tokens), MODEL, HOOK, DATASET)
    measured = {ITDA: partial(itda_seconds, tokens), SAE: partial(sae_seconds, tokens), RUNNER: by_runner}
    seconds = {}
    for name, run in measured.items():
        with tempfile.TemporaryDirectory(dir=work) as directory:
            seconds[name] = run(Path(directory))
    of_runner = {name: seconds[RUNNER].pop(name) for name in ("l0", "explained_variance")}
    revision = LanguageModelName(MODEL).fingerprint()
    study = Study("comparison/cost", MODEL, revision, HOOK, DATASET, tokens, 0)
    shares = {name: seconds[ITDA]["all"] / seconds[name]["all"] for name in (SAE, RUNNER)}
    content = {**describe(study), "seconds": seconds, "share": shares[SAE], "shares": shares, "runner": of_runner}
    write_results(results, "cost", content, as_markdown(content))


def as_markdown(result: dict[str, Any]) -> str:
    """Return the table."""
    head = ["entry", "all", "of which"]
    lines = [
        [name, f"{parts['all']:.0f} s", ", ".join(f"{part} {s:.0f} s" for part, s in parts.items() if part != "all")]
        for name, parts in result["seconds"].items()
    ]
    shares = result.get("shares", {SAE: result["share"]})  # one in results of earlier versions
    notes = [f"The ITDA takes {share:.3f} of the time of the {name}." for name, share in shares.items()]
    if "runner" in result:
        runner = result["runner"]
        notes.append(
            f"The runner's SAE has a mean L0 of {runner['l0']:.1f} and explains {runner['explained_variance']:.3f} of "
            "the variance of four later batches; it reads and trains at once."
        )
    subject = f"{result['model']}, {result['hook_name']}, {result['dataset']}, T = {result['tokens']:,}."
    return "\n".join([f"{subject} {environment(result)}", "", *table(head, lines), "", " ".join(notes), ""])


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
