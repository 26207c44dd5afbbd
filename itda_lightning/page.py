"""Command: one self-contained HTML page about a dictionary (``python -m itda_lightning.page --help``)."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.usable import usable
from itda_lightning.dictionary.dictionary import REFINEMENT, Dictionary
from itda_lightning.dictionary.sources import Source
from itda_lightning.errors import InputError
from itda_lightning.evaluation.data_of import add_prompts, check_width, data_for, hook_point
from itda_lightning.evaluation.decomposition import decompose
from itda_lightning.evaluation.usage import UsageMeter
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.fitting.run_directory import DICTIONARIES, EVALUATION
from itda_lightning.machine.command_line import run_command, run_function
from itda_lightning.machine.versions import versions_and_hardware
from itda_lightning.report.pages.dictionary_page import write_page
from itda_lightning.report.terminal import print_decomposition, print_metrics
from itda_lightning.results.run_results import RunResults, TokenDecomposition, Usage

DECOMPOSITIONS = 6
PURSUITS = {
    "mp": "matching pursuit",
    "omp": "orthogonal matching pursuit",
    "gomp": "generalised orthogonal matching pursuit",
}
# The evals' figures that stand on the page, in this order.
EVALUATED = (
    "ce_loss_without_sae",
    "ce_loss_with_sae",
    "ce_loss_with_ablation",
    "ce_loss_score",
    "kl_div_with_sae",
    "kl_div_score",
    "cossim",
    "loss_tokens_evaluated",
)


def page(
    dictionary: str,
    hook_name: str | None = None,
    output: str | None = None,
    device: str = "auto",
    data_config: str | None = None,
) -> None:
    """Measure a dictionary on held-out documents, write a page about it, print its figures and one decomposition.

    Args:
        dictionary: a run directory, a checkpoint, or a saved or exported dictionary.
        hook_name: which dictionary, where there are several.
        output: the HTML file to write; by default RUN/page-<hook name>.html, or page.html in this directory.
        device: where the language model runs: auto, cpu, cuda or cuda:N.
        data_config: the fit config whose data section names the model and the documents; by default those of the
            dictionary's own fit.
    """
    loaded = load_dictionary(dictionary, hook_name)
    hook = hook_point(loaded, hook_name, dictionary)
    data = data_for(loaded, data_config, hook, device)
    run = Path(dictionary).expanduser()
    in_run = (run / DICTIONARIES).is_dir()
    default = run / f"page-{hook}.html" if in_run else Path("page.html")
    path = Path(output).expanduser() if output is not None else default
    evaluated = _evaluated(run / EVALUATION.format(hook_name=hook)) if in_run else {}
    add_prompts(loaded, data)
    usage, decompositions = _measure(loaded, data, hook)
    growth = tuple((seen, n_atoms) for seen, n_atoms in loaded.metadata.get("growth", []))
    fvu_curve = tuple((entry["seen"], entry["fvu"]) for entry in loaded.metadata.get("validation", []))
    results = RunResults(
        title=f"{data.model_name.name} at {hook}",
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
        # A single point is no curve.
        growth=growth if len(growth) > 1 else (),
        fvu_curve=fvu_curve if len(fvu_curve) > 1 else (),
    )
    cosines = loaded.cosines.tolist() if loaded.cosines is not None else None
    write_page(results, path, cosines)
    print_metrics(results.metrics)
    print_decomposition(decompositions[len(decompositions) // 2], max_terms=12, cosines=cosines)
    sys.stdout.write(f"page: {path.resolve()}\n")


def _evaluated(path: Path) -> dict[str, float]:
    """The figures of an evaluation of the run, where there was one."""
    if not path.exists():
        return {}
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))["metrics"]
        return {str(name): value for name, value in metrics.items() if isinstance(value, (int, float))}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is not what evaluate writes ({type(error).__name__}: {error}): evaluate the run again or remove it"
        ) from error


def _measure(dictionary: Dictionary, data: ActivationsDataModule, hook: str) -> tuple[Usage, list[TokenDecomposition]]:
    loader, rows = data.val_dataloader(), data.rows("heldout")
    chosen = set(torch.linspace(0, rows.n_kept - 1, DECOMPOSITIONS + 2)[1:-1].long().tolist())
    picked: list[tuple[Tensor, Source]] = []

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        position = 0
        for batch in tqdm(loader, desc="Held-out activations", unit=" batches"):
            check_width(dictionary, batch.activations[hook].shape[1], data, hook)
            good = usable(batch.activations[hook], batch.table, hook, "skip")
            x, table = batch.activations[hook][good], batch.table[good]
            for index in sorted(chosen):
                if position <= index < position + len(x):
                    picked.append((x[index - position], Source(*table[index - position].tolist())))
            position += len(x)
            yield x, table

    meter = UsageMeter(dictionary)
    for x, table in batches():
        meter.update(x, table)
    usage = meter.compute(rows.prompt)
    prompts = [rows.prompt(source) for _, source in picked]
    return usage, decompose(dictionary, torch.stack([x for x, _ in picked]), prompts)


def _facts(dictionary: Dictionary, data: ActivationsDataModule, hook: str, usage: Usage) -> dict[str, str]:
    metadata: dict[str, Any] = dictionary.metadata
    fit, settings, versions = metadata.get("fit", {}), metadata.get("data", {}), versions_and_hardware()
    threshold, budget = metadata.get("threshold"), settings.get("training_tokens")
    heldout = f"{usage.n_tokens:,} of {data.rows('heldout').tokens.numel():,} tokens"
    facts = {
        "model": data.model_name.name,
        "model fingerprint": _short(data.model_name.fingerprint()),
        "hook point": hook,
        "dataset": str(settings.get("dataset", data.hparams["dataset"])),
        "dataset fingerprint": _short(dictionary.dataset or data.documents.fingerprint),
        "activations read": f"{metadata.get('activations_seen', 0):,} of {budget:,} tokens" if budget else "",
        "held-out activations": heldout,
        "pursuit": f"{PURSUITS[dictionary.pursuit]}, k = {dictionary.k}"
        + (", non-negative" if dictionary.nonnegative else ""),
        "growth": str(fit.get("growth", "")).replace("_", " "),
        "refinement": _refinement(metadata.get(REFINEMENT)),
        "threshold": f"{threshold:.4f} of the energy{_power(fit)}" if threshold is not None else "",
        "seed": str(settings.get("seed", "")),
        "versions": ", ".join(f"{name} {versions[name]}" for name in ("itda-lightning", "torch", "sae-lens")),
        "hardware": f"{versions['cpus']} CPU cores, {versions['memory_gb']:.0f} GB"
        + "".join(f", {gpu}" for gpu in versions["gpus"]),
    }
    return {name: value for name, value in facts.items() if value}


def _power(fit: Mapping[str, Any]) -> str:
    exponent = fit.get("energy_exponent", 1.0)
    return "" if exponent == 1 else f" to the power {exponent:g}"


def _refinement(facts: dict[str, Any] | None) -> str:
    if facts is None:
        return ""
    reached = f", {facts['mean_cosine']:.3f} on average" if "mean_cosine" in facts else ""
    return f"{facts['passes']} passes, cosine with the source at least {facts['anchor']}{reached}"


def _short(fingerprint: str) -> str:
    """As much of a hash as tells models apart, without the hub name that stands before a commit."""
    return fingerprint.rpartition("@")[2][:12]


def main(args: list[str] | None = None) -> None:
    """Parse the command line and run the command."""
    run_function(page, "page", args)


if __name__ == "__main__":
    run_command(main)
