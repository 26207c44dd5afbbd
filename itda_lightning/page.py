"""Command: one self-contained HTML page about a dictionary (``python -m itda_lightning.page --help``)."""

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from torch import Tensor
from tqdm.auto import tqdm

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.command_line import run_command
from itda_lightning.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.evaluation.data import data_for
from itda_lightning.evaluation.decomposition import decompose
from itda_lightning.evaluation.results import RunResults, TokenDecomposition, Usage
from itda_lightning.evaluation.usage import measure_usage
from itda_lightning.loading import load_dictionary
from itda_lightning.report.page import write_page
from itda_lightning.report.tables import print_decomposition, print_metrics
from itda_lightning.run_directory import EVALUATION, versions_and_hardware
from itda_lightning.sources import Source

DECOMPOSITIONS = 6
# The evals' figures that stand on the page, in this order.
EVALUATED = (
    "ce_loss_without_sae",
    "ce_loss_with_sae",
    "ce_loss_with_ablation",
    "ce_loss_score",
    "kl_div_with_sae",
    "kl_div_score",
    "cossim",
)


def page(dictionary: str, hook_name: str | None = None, output: str | None = None, device: str = "auto") -> None:
    """Measure a dictionary on held-out documents, write a page about it, print its figures and one decomposition.

    Args:
        dictionary: a run directory, a checkpoint, or a saved or exported dictionary.
        hook_name: which dictionary, where there are several.
        output: the HTML file to write; by default RUN/page-<hook name>.html, or page.html in this directory.
        device: where the language model runs: auto, cpu, cuda or cuda:N.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("itda_lightning").setLevel(logging.INFO)
    loaded = load_dictionary(dictionary, hook_name)
    hook = loaded.metadata.get("hook_name")
    if hook is None:
        raise InputError(f"{dictionary} does not say which hook point it is of: give a run directory or its export")
    data = data_for(loaded, None, hook, device)
    run = Path(dictionary).expanduser()
    in_run = (run / "dictionaries").is_dir()
    path = Path(output) if output is not None else run / f"page-{hook}.html" if in_run else Path("page.html")
    usage, decompositions = _measure(loaded, data, hook)
    evaluation = run / EVALUATION.format(hook_name=hook)
    evaluated = json.loads(evaluation.read_text(encoding="utf-8"))["metrics"] if in_run and evaluation.exists() else {}
    validation = loaded.metadata.get("validation", [])
    results = RunResults(
        title=f"{data.model_name.name} · {hook}",
        facts=_facts(loaded, data, hook, usage),
        metrics={
            "n_atoms": loaded.n_atoms,
            "fvu": usage.fvu,
            "l0": usage.l0,
            "dead_atoms": usage.dead_atoms,
            **{name: evaluated[name] for name in EVALUATED if name in evaluated},
        },
        usage=usage,
        decompositions=tuple(decompositions),
        growth=tuple((seen, n_atoms) for seen, n_atoms in loaded.metadata.get("growth", [])),
        fvu_curve=tuple((entry["seen"], entry["fvu"]) for entry in validation),
    )
    write_page(results, path)
    print_metrics(results.metrics)
    print_decomposition(decompositions[len(decompositions) // 2], max_terms=12)
    sys.stdout.write(f"page: {path.resolve()}\n")


def _measure(dictionary: Dictionary, data: ActivationsDataModule, hook: str) -> tuple[Usage, list[TokenDecomposition]]:
    loader, rows = data.val_dataloader(), data.rows("heldout")
    chosen = set(torch.linspace(0, rows.n_kept - 1, DECOMPOSITIONS + 2)[1:-1].long().tolist())
    picked: list[tuple[Tensor, Source]] = []

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        position = 0
        for batch in tqdm(loader, desc="Held-out activations", unit=" batches"):
            for index in sorted(chosen):
                if position <= index < position + len(batch):
                    row = batch.table[index - position].tolist()
                    picked.append((batch.activations[hook][index - position], Source(*row)))
            position += len(batch)
            yield batch.activations[hook], batch.table

    usage = measure_usage(dictionary, batches(), rows.prompt)
    prompts = [rows.prompt(source) for _, source in picked]
    return usage, decompose(dictionary, torch.stack([x for x, _ in picked]), prompts)


def _facts(dictionary: Dictionary, data: ActivationsDataModule, hook: str, usage: Usage) -> dict[str, str]:
    metadata: dict[str, Any] = dictionary.metadata
    fit, settings, versions = metadata.get("fit", {}), metadata.get("data", {}), versions_and_hardware()
    growth = fit.get("growth", "unknown")
    return {
        "model": data.model_name.name,
        "model fingerprint": data.model_name.fingerprint(),
        "hook point": hook,
        "dataset": f"{settings.get('dataset')} ({dictionary.dataset})",
        "activations seen": f"{metadata.get('activations_seen', 0):,} of {settings.get('training_tokens', 0):,} tokens",
        "held-out activations": f"{usage.n_tokens:,}",
        "pursuit": f"{dictionary.pursuit}, k = {dictionary.k}" + (", non-negative" if dictionary.nonnegative else ""),
        "growth": f"{growth}, threshold {metadata.get('threshold', float('nan')):.4f}",
        "seed": str(settings.get("seed")),
        "versions": ", ".join(f"{name} {versions[name]}" for name in ("itda-lightning", "torch", "sae-lens")),
        "hardware": f"{versions['cpus']} CPU cores, {versions['memory_gb']} GB"
        + "".join(f", {gpu}" for gpu in versions["gpus"]),
    }


if __name__ == "__main__":
    run_command(lambda: auto_cli(page, as_positional=False))
