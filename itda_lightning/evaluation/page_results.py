"""Measure what the page about one dictionary shows."""

import math
from typing import Any

import torch

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.dictionary.dictionary import REFINEMENT, Dictionary
from itda_lightning.dictionary.sources import Source
from itda_lightning.evaluation.decomposition import decompose
from itda_lightning.evaluation.facts_strip import data_facts, machine_facts, short
from itda_lightning.evaluation.usage import UsageMeter
from itda_lightning.machine.bundled_names import described, in_words
from itda_lightning.pursuit import PURSUITS
from itda_lightning.results.run_results import RunResults, TokenDecomposition, Usage

DECOMPOSITIONS = 6
# The figures of an evaluation that stand on the page, in this order.
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


def measure_for_page(
    dictionary: Dictionary, data: ActivationsDataModule, hook_name: str, evaluation: dict[str, float]
) -> RunResults:
    """Measure a dictionary on held-out activations, in one pass; metrics of an ``evaluation`` are shown beside.

    Raises:
        InputError: activations of another width than the atoms, or none that can be used.
    """
    usage, decompositions = _measure(dictionary, data, hook_name)
    growth = tuple((seen, n_atoms) for seen, n_atoms in dictionary.metadata.get("growth", []))
    fvu_curve = tuple((entry["seen"], entry["fvu"]) for entry in dictionary.metadata.get("validation", []))
    return RunResults(
        title=f"{in_words(data.model_name.name)}, at {hook_name}",
        facts=_facts(dictionary, data, hook_name, usage),
        metrics={
            "n_atoms": dictionary.n_atoms,
            "fvu": usage.fvu,
            "l0": usage.l0,
            "dead_atoms": usage.dead_atoms,
            **({} if math.isnan(usage.label_rate) else {"label_rate": usage.label_rate}),
            **{name: evaluation[name] for name in EVALUATED if name in evaluation},
        },
        usage=usage,
        decompositions=tuple(decompositions),
        # A single point is no curve.
        growth=growth if len(growth) > 1 else (),
        fvu_curve=fvu_curve if len(fvu_curve) > 1 else (),
    )


def _measure(
    dictionary: Dictionary, data: ActivationsDataModule, hook_name: str
) -> tuple[Usage, list[TokenDecomposition]]:
    """Measure usage, and decompose a few tokens that are evenly spread over the held-out ones."""
    rows, meter = data.rows("heldout"), UsageMeter(dictionary)
    chosen = torch.linspace(0, rows.n_kept - 1, DECOMPOSITIONS + 2)[1:-1].long().unique()
    examples, first = [], 0
    for x, table in data.heldout_batches(hook_name, d_in=dictionary.d_in, description="Held-out activations"):
        meter.update(x, table)
        inside = chosen[(chosen >= first) & (chosen < first + len(x))] - first
        examples.append((x[inside], table[inside]))
        first += len(x)
    usage = meter.compute(rows.prompt)
    x, table = (torch.cat(parts) for parts in zip(*examples, strict=True))
    return usage, decompose(dictionary, x, [rows.prompt(Source(*source)) for source in table.tolist()])


def _facts(dictionary: Dictionary, data: ActivationsDataModule, hook_name: str, usage: Usage) -> dict[str, str]:
    metadata: dict[str, Any] = dictionary.metadata
    fit, settings, threshold = metadata.get("fit", {}), metadata.get("data", {}), metadata.get("threshold")
    strip, budget = data_facts(data, hook_name), settings.get("training_tokens")
    facts = {
        **{name: strip[name] for name in ("model", "model fingerprint", "hook point")},
        "dataset": described(str(settings["dataset"])) if "dataset" in settings else strip["dataset"],
        "dataset fingerprint": short(dictionary.dataset or data.documents.fingerprint),
        "activations read": f"{metadata.get('activations_seen', 0):,} of {budget:,} tokens" if budget else "",
        "held-out activations": f"{usage.n_tokens:,} of {data.rows('heldout').tokens.numel():,} tokens",
        "pursuit": f"{PURSUITS[dictionary.pursuit].title}, k = {dictionary.k}"
        + (", non-negative" if dictionary.nonnegative else ""),
        "growth": str(fit.get("growth", "")).replace("_", " "),
        "refinement": _refinement(metadata.get(REFINEMENT)),
        "threshold": _threshold(threshold, fit.get("energy_exponent", 1.0)),
        "seed": strip["seed"],
        **machine_facts(),
    }
    return {name: value for name, value in facts.items() if value}


def _threshold(threshold: float | None, exponent: float) -> str:
    if threshold is None:
        return ""
    return f"{threshold:.4f} of the energy" + ("" if exponent == 1 else f" to the power {exponent:g}")


def _refinement(facts: dict[str, Any] | None) -> str:
    if facts is None:
        return ""
    bound = "" if facts["anchor"] is None else f" at least {facts['anchor']}"
    reached = f", {facts['mean_cosine']:.3f} on average" if "mean_cosine" in facts else ""
    unmixed = f", unmixed above cosine {facts['unmix']}" if facts.get("unmix") is not None else ""
    labels = f", with the label {facts['mean_label_cosine']:.3f} on average" if "mean_label_cosine" in facts else ""
    return f"{facts['passes']} passes, cosine with the source{bound or ' not bounded'}{reached}{unmixed}{labels}"
