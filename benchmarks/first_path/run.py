"""Compare MP and OMP, centred and not, with random dictionaries of the same size: quality and cost.

    python -m benchmarks.first_path.run [--training_tokens 200000] [--max_atoms 4096] [--k 32]

Every row has the same training and held-out tokens. The random dictionary (the control) is the same number of training
activations drawn at random, with the same bias and pursuit. What pursuit itself costs is the subject of
`benchmarks/pursuit/`.
"""

import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jsonargparse import auto_cli

import itda_lightning as il
from benchmarks.bundled import bundled_data, study_of
from benchmarks.results import describe, environment, table, write_results
from itda_lightning.evaluation.saelens_evals import evaluate_sae, rows_for_evals
from itda_lightning.fitting.validation import ValidationSums

RESULTS = Path(__file__).parent / "results"
# The losses need three passes of the whole model, so they are taken on the first rows only, the same for all.
LOSS_ROWS = 16


def main(
    training_tokens: int = 200_000,
    validation_tokens: int = 16_384,
    max_atoms: int = 4096,
    k: int = 32,
    hook_name: str = "blocks.14.hook_resid_post",
    cache_dir: str = "~/.cache/itda_lightning/activations",
    seed: int = 0,
) -> None:
    """Run the study and write results/first_path.json and results/first_path.md."""
    data = bundled_data([hook_name], training_tokens, validation_tokens, cache_dir, seed)
    rows = rows_for_evals(data.rows("heldout"), data.tokenizer)
    results: list[dict[str, Any]] = []
    for pursuit in ("mp", "omp"):
        for center in (True, False):
            module = il.ITDA(max_atoms=max_atoms, k=k, pursuit=pursuit, center=center)
            trainer = L.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, limit_val_batches=0)
            start = time.perf_counter()
            trainer.fit(module, datamodule=data)
            seconds = time.perf_counter() - start
            dictionary = module.finished_dictionary()
            facts = {
                "pursuit": pursuit,
                "center": center,
                "threshold": dictionary.metadata["threshold"],
                "activations_seen": dictionary.metadata["activations_seen"],
            }
            fit = {"fit_seconds": seconds, "growth_seconds": module.growth_seconds}
            results.append({"dictionary": "ITDA", **facts, **fit, **measure(dictionary, data, rows, hook_name)})
            control = random_dictionary(dictionary, data, hook_name, seed)
            results.append({"dictionary": "random", **facts, **measure(control, data, rows, hook_name)})
            report(results[-2:])
    result = {
        **describe(study_of("first_path", data, hook_name)),
        "dataset_fingerprint": rows.dataset,
        "validation_tokens": validation_tokens,
        "max_atoms": max_atoms,
        "k": k,
        "harvest": {"tokens": data.harvested_tokens, "seconds": data.harvest_seconds},
        "rows": results,
    }
    write_results(RESULTS, "first_path", result, as_markdown(result))


def random_dictionary(fitted: il.Dictionary, data: il.ActivationsDataModule, hook: str, seed: int) -> il.Dictionary:
    """Draw as many training activations as ``fitted`` has atoms; keep its bias and pursuit."""
    x = torch.cat([batch.activations[hook] for batch in data.train_dataloader()])
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[: fitted.n_atoms]] - fitted.bias
    return il.Dictionary(
        torch.nn.functional.normalize(x, dim=1),
        fitted.bias,
        k=fitted.k,
        pursuit=fitted.pursuit,
        metadata={"hook_name": hook},
    )


def measure(dictionary: il.Dictionary, data: il.ActivationsDataModule, rows: Any, hook: str) -> dict[str, float]:
    """Measure held-out documents: FVU and the tail by our sums, losses by SAELens's evals."""
    sums = ValidationSums(dictionary)
    shares = []
    for batch in data.val_dataloader():
        x = batch.activations[hook]
        sums.update(x)
        shares.append(dictionary.encode(x).residual_energy / dictionary.centre(x).square().sum(-1))
    tail = torch.cat(shares).double()
    metrics, _ = evaluate_sae(il.to_sae(dictionary), data.language_model, rows, progress=False, loss_rows=LOSS_ROWS)
    losses = ("ce_loss_without_sae", "ce_loss_with_sae", "ce_loss_score", "kl_div_with_sae", "loss_tokens_evaluated")
    return {
        "n_atoms": dictionary.n_atoms,
        **sums.compute(),
        "unexplained_p95": float(tail.quantile(0.95)),
        "unexplained_p99": float(tail.quantile(0.99)),
        **{name: metrics[name] for name in losses},
    }


def report(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        sys.stdout.write(f"{row}\n")


def as_markdown(result: dict[str, Any]) -> str:
    head = ["dictionary", "pursuit", "centred", "atoms", "activations seen", "threshold", "FVU", "L0", "dead"]
    head += ["unexplained p95 / p99", "CE without", "CE with", "CE score", "KL", "growth s"]
    rows = [
        (
            row["dictionary"],
            row["pursuit"],
            "yes" if row["center"] else "no",
            f"{row['n_atoms']:,}",
            f"{row['activations_seen']:,}",
            f"{row['threshold']:.3f}",
            f"{row['fvu']:.4f}",
            f"{row['l0']:.1f}",
            str(row["dead_atoms"]),
            f"{row['unexplained_p95']:.3f} / {row['unexplained_p99']:.3f}",
            f"{row['ce_loss_without_sae']:.3f}",
            f"{row['ce_loss_with_sae']:.3f}",
            f"{row['ce_loss_score']:.4f}",
            f"{row['kl_div_with_sae']:.3f}",
            f"{row['growth_seconds']:.1f}" if "growth_seconds" in row else "",
        )
        for row in result["rows"]
    ]
    lines = [
        f"{result['model']} ({result['revision'][:12]}), {result['hook_name']}, {result['dataset']} "
        f"({result['dataset_fingerprint'][:12]}), {result['tokens']:,} training tokens, "
        f"{result['validation_tokens']:,} held-out tokens, k = {result['k']}, seed {result['seed']}. "
        f"{environment(result)}",
        "",
        *table(head, rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
