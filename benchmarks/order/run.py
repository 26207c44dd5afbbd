"""Measure how much a dictionary depends on the order of its data: fits of one layer in several orders.

    python -m benchmarks.order.run [--training_tokens 16384]

The bundled model's activations at one hook point, in orders that shuffle the rows (as ``orders`` of the similarity
command does) or every token. Each policy grows until it is full or the data end, at a threshold of its own, found by
bisection so that all are about equally large; each pair of orders gives a Jaccard index of sources (all dictionaries
cropped to the smallest) and an excess over chance, and beside it stands what two orders have in common where only the
atoms' directions count: the share of atoms with one in the other dictionary of a cosine of at least .9. The control
draws as many activations at random. Writes results/order.json and order.md.
"""

import itertools
import sys
import time
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from torch import Tensor

from benchmarks.bundled import bundled_data, study_of
from benchmarks.results import describe, environment, table, write_results
from itda_lightning.fitting.threshold import typical_energy
from itda_lightning.growth import GROWTH_POLICIES, GrowthRule
from itda_lightning.measures import expected_jaccard
from itda_lightning.pursuit import PreparedAtoms, PursuitName, pursue

RESULTS = Path(__file__).parent / "results"
NEAR = 0.9
# Policy and window: the activations that it sees at a time, 0 for all at once.
POLICIES = (
    ("sequential", 1024),
    ("frozen_batch", 256),
    ("frozen_batch", 1024),
    ("worst_first", 1024),
    ("worst_first", 4096),
    ("worst_first", 0),
)


def grow(policy: str, x: Tensor, window: int, rule: GrowthRule, max_atoms: int) -> list[int]:
    """Return the indices of the activations that become atoms, in order."""
    prepared = PreparedAtoms(x.new_zeros(max_atoms, x.shape[1]), 0)
    prepared.build_gram()
    chosen: list[int] = []
    for start in range(0, len(x), window or len(x)):
        grown = GROWTH_POLICIES[policy](x[start : start + (window or len(x))], prepared, rule)
        prepared.place(prepared.n, grown.atoms)
        chosen += (start + grown.accepted).tolist()
    return chosen


def threshold_for(policy: str, x: Tensor, window: int, rule: GrowthRule, atoms: int, steps: int = 7) -> float:
    """Return the threshold at which the policy grows about ``atoms`` atoms on all of x."""
    low, high = 0.02, 0.9
    for _ in range(steps):
        middle = (low * high) ** 0.5
        n = len(grow(policy, x, window, rule._replace(threshold=middle), 2 * atoms))
        low, high = (middle, high) if n > atoms else (low, middle)
    return (low * high) ** 0.5


def orders_of(rows: Tensor, count: int, unit: str, seed: int) -> list[Tensor]:
    """Return permutations of the tokens that shuffle whole rows, or all tokens."""
    generator = torch.Generator().manual_seed(seed)
    if unit == "tokens":
        return [torch.randperm(len(rows), generator=generator) for _ in range(count)]
    shuffled = [torch.randperm(int(rows.max()) + 1, generator=generator) for _ in range(count)]
    return [torch.argsort(order.argsort()[rows], stable=True) for order in shuffled]


def near(a: Tensor, b: Tensor) -> float:
    """Return the share of atoms of a and b whose direction the other has too."""
    cosines = (a @ b.T).abs()
    return float(torch.cat([cosines.amax(1), cosines.amax(0)]).ge(NEAR).double().mean())


def compare(x: Tensor, sets: list[Tensor]) -> dict[str, Any]:
    """Return mean and range over all pairs of dictionaries, which are given by the tokens of their atoms."""
    n = min(map(len, sets))
    unit = torch.nn.functional.normalize(x, dim=1)
    indices, nears = [], []
    for a, b in itertools.combinations([one[:n] for one in sets], 2):
        common = int(torch.isin(a, b).sum())
        indices.append(common / (2 * n - common))
        nears.append(near(unit[a], unit[b]))
    chance = expected_jaccard(n, n, len(x))
    mean = sum(indices) / len(indices)
    return {
        "atoms": n,
        "jaccard": mean,
        "jaccard_range": [min(indices), max(indices)],
        "chance": chance,
        "excess": mean - chance,
        "near": sum(nears) / len(nears),
    }


def heldout_fvu(atoms: Tensor, heldout: Tensor, rule: GrowthRule) -> float:
    prepared = PreparedAtoms(atoms, len(atoms))
    code = pursue(rule.pursuit, heldout, prepared, rule.k, rule.nonnegative)
    return float(code.residual_energy.double().sum() / heldout.double().square().sum())


def main(
    training_tokens: int = 16_384,
    validation_tokens: int = 8192,
    atoms: int = 1024,
    k: int = 32,
    pursuit: PursuitName = "omp",
    energy_exponent: float = 0.85,
    orders: int = 3,
    hook_name: str = "blocks.13.hook_resid_post",
    hook_names: list[str] | None = None,
    cache_dir: str = "~/.cache/itda_lightning/activations",
    seed: int = 0,
    note: str = "",
) -> None:
    """Run the benchmark; ``hook_names`` are those of a cached harvest, if it has more."""
    data = bundled_data(hook_names or [hook_name], training_tokens, validation_tokens, cache_dir, seed)
    batches = list(data.train_dataloader())
    x = torch.cat([batch.activations[hook_name] for batch in batches]).float()
    rows = torch.cat([batch.table for batch in batches])[:, 1]
    heldout = torch.cat([batch.activations[hook_name] for batch in data.val_dataloader()]).float()
    x, heldout = x - x.mean(0), heldout - x.mean(0)
    rule = GrowthRule(k, pursuit, False, 0.5, energy_exponent, typical_energy(x))
    results = []
    for unit in ("rows", "tokens"):
        permutations = orders_of(rows, orders, unit, seed)
        for policy, window in POLICIES:
            start = time.perf_counter()
            threshold = threshold_for(policy, x[permutations[0]], window, rule, atoms)
            calibrated = rule._replace(threshold=threshold)
            sets = [order[grow(policy, x[order], window, calibrated, 2 * atoms)] for order in permutations]
            unit_atoms = torch.nn.functional.normalize(x[sets[0][:atoms]], dim=1)
            results.append(
                {
                    "shuffled": unit,
                    "policy": policy,
                    "window": window or len(x),
                    "threshold": threshold,
                    **compare(x, sets),
                    "heldout_fvu": heldout_fvu(unit_atoms, heldout, rule),
                    "seconds": time.perf_counter() - start,
                }
            )
            sys.stdout.write(f"{results[-1]}\n")
    drawn = [order[:atoms] for order in orders_of(rows, orders, "tokens", seed + 1)]
    control = {"shuffled": "", "policy": "random activations", "window": 0, "threshold": None, **compare(x, drawn)}
    unit_atoms = torch.nn.functional.normalize(x[drawn[0]], dim=1)
    results.append({**control, "heldout_fvu": heldout_fvu(unit_atoms, heldout, rule), "seconds": 0.0})
    result = {
        **describe(study_of("order", data, hook_name)),
        "dataset_fingerprint": data.rows("train").dataset,
        "activations": len(x),
        "heldout": len(heldout),
        "k": k,
        "pursuit": pursuit,
        "energy_exponent": energy_exponent,
        "orders": orders,
        "note": note,
        "rows": results,
    }
    write_results(RESULTS, "order", result, as_markdown(result))


def as_markdown(result: dict[str, Any]) -> str:
    head = ["growth", "window", "shuffled", "threshold", "atoms", "Jaccard index", "from, to", "by chance", "excess"]
    rows = []
    for row in result["rows"]:
        low, high = row["jaccard_range"]
        rows.append(
            (
                row["policy"],
                f"{row['window']:,}" if row["window"] else "",
                row["shuffled"],
                "" if row["threshold"] is None else f"{row['threshold']:.3f}",
                f"{row['atoms']:,}",
                f"{row['jaccard']:.3f}",
                f"{low:.3f}, {high:.3f}",
                f"{row['chance']:.3f}",
                f"{row['excess']:.3f}",
                f"{row['near']:.3f}",
                f"{row['heldout_fvu']:.4f}",
            )
        )
    lines = [
        f"{result['model']} ({result['revision'][:12]}), {result['hook_name']}, {result['dataset']}, "
        f"{result['activations']:,} activations in {result['orders']} orders (every pair of orders is compared), "
        f"{result['heldout']:,} held out, {result['pursuit']} with k = {result['k']}, centred, energy exponent "
        f"{result['energy_exponent']:g}, seed {result['seed']}. {environment(result)} {result['note']}".rstrip(),
        "",
        *table([*head, f"atoms with one of cosine {NEAR:g}", "held-out FVU"], rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
