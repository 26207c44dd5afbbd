"""Measure cost and quality of the growth policies, beside exact worst-first growth of a window.

    python -m benchmarks.growth.run [--training_tokens 65536]

The bundled model's activations at one hook point; each policy grows a dictionary at the same threshold from the same
activations in the same order. Encodes are counted (an activation that is encoded again counts again); the held-out
errors show what a smaller dictionary costs. Exact worst-first encodes a window again for every atom, so it gets one
window only, and the others are given the same window for comparison. Writes results/growth.json and growth.md.
"""

import sys
import time
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from torch import Tensor

from benchmarks.bundled import bundled_data, study_of
from benchmarks.results import describe, environment, table, write_results
from itda_lightning import growth
from itda_lightning.growth import GROWTH_POLICIES, Growth, GrowthRule
from itda_lightning.pursuit import PreparedAtoms, compiled, pursue
from itda_lightning.pursuit.compiled import pursue_and_append

RESULTS = Path(__file__).parent / "results"


class Counted:
    """Count of the activations that growth encodes."""

    def __init__(self) -> None:
        self.encoded = 0

    def pursue(self, pursuit: Any, x: Tensor, *rest: Any, **named: Any) -> Any:
        self.encoded += len(x)
        return pursue(pursuit, x, *rest, **named)

    def pursue_and_append(self, pursuit: Any, problem: Any, *rest: Any) -> Any:
        self.encoded += len(problem.x)
        return pursue_and_append(pursuit, problem, *rest)


def exact_worst_first(x: Tensor, prepared: PreparedAtoms, rule: GrowthRule) -> Growth:
    """Append the worst explained failure and encode all others again, until none fails: the definition."""
    accepted: list[int] = []
    energy = x.square().sum(1)
    code = growth.frozen_batch.pursue(rule.pursuit, x, prepared, rule.k, rule.nonnegative, rule.threshold)
    while prepared.n < prepared.capacity:
        share = code.residual_energy / energy
        share[accepted] = 0.0
        worst = int(share.argmax())
        if float(share[worst]) <= rule.threshold:
            break
        accepted.append(worst)
        prepared.place(prepared.n, torch.nn.functional.normalize(x[worst : worst + 1], dim=1))
        code = growth.frozen_batch.pursue(rule.pursuit, x, prepared, rule.k, rule.nonnegative, rule.threshold)
    chosen = torch.tensor(accepted)
    prepared.n -= len(accepted)
    return Growth(chosen, torch.nn.functional.normalize(x[chosen], dim=1), code.residual_energy)


def grow(
    policy: Callable[..., Growth], x: Tensor, heldout: Tensor, window: int, rule: GrowthRule, max_atoms: int
) -> dict[str, float]:
    """Grow on windows of x in order; return the size, the cost, and the errors on held-out activations."""
    prepared = PreparedAtoms(torch.zeros(max_atoms, x.shape[1]), 0)
    prepared.build_gram()
    counted = Counted()
    # Policies that encode whole batches take the encoder as an argument; the others find it in their module.
    options = {"encode": counted.pursue} if "encode" in signature(policy).parameters else {}
    for module, name in (
        (growth.frozen_batch, "pursue"),
        (growth.sequential, "pursue"),
        (compiled, "pursue_and_append"),
    ):
        setattr(module, name, getattr(counted, name))
    start = time.perf_counter()
    for part in x.split(window):
        prepared.place(prepared.n, policy(part, prepared, rule, **options).atoms)
    seconds = time.perf_counter() - start
    code = pursue(rule.pursuit, heldout, prepared, rule.k, rule.nonnegative)
    share = code.residual_energy / heldout.square().sum(1)
    return {
        "atoms": prepared.n,
        "encodes per activation": counted.encoded / len(x),
        "seconds": seconds,
        "held-out FVU": float(code.residual_energy.double().sum() / heldout.double().square().sum()),
        "held-out share over threshold": float((share > rule.threshold).double().mean()),
    }


def main(
    training_tokens: int = 65_536,
    validation_tokens: int = 4096,
    max_atoms: int = 8192,
    k: int = 32,
    threshold: float = 0.3,
    exact_window: int = 1024,
    hook_name: str = "blocks.14.hook_resid_post",
    cache_dir: str = "~/.cache/itda_lightning/activations",
    seed: int = 0,
) -> None:
    """Run the benchmark and write its results."""
    data = bundled_data([hook_name], training_tokens, validation_tokens, cache_dir, seed)
    data.setup("fit")
    x = torch.cat([batch.activations[hook_name] for batch in data.train_dataloader()]).float()
    heldout = torch.cat([batch.activations[hook_name] for batch in data.val_dataloader()]).float()
    x, heldout = x - x.mean(0), heldout - x.mean(0)
    rule = GrowthRule(k, "mp", False, threshold)
    rows = []
    for name, policy in GROWTH_POLICIES.items():
        for window in (1024, 4096):
            rows.append(
                {
                    "policy": name,
                    "window": window,
                    "activations": len(x),
                    **grow(policy, x, heldout, window, rule, max_atoms),
                }
            )
            sys.stdout.write(f"{rows[-1]}\n")
    for name, policy in {**GROWTH_POLICIES, "exact worst-first": exact_worst_first}.items():
        one = x[:exact_window]
        rows.append(
            {
                "policy": name,
                "window": exact_window,
                "activations": len(one),
                **grow(policy, one, heldout, exact_window, rule, max_atoms),
            }
        )
        sys.stdout.write(f"{rows[-1]}\n")
    fingerprint = data.rows("train").dataset
    result = {
        **describe(study_of("growth", data, hook_name)),
        "dataset_fingerprint": fingerprint,
        "rule": rule._asdict(),
        "rows": rows,
    }
    write_results(RESULTS, "growth", result, as_markdown(result))


def as_markdown(result: dict[str, Any]) -> str:
    rule = result["rule"]
    head = ["policy", "window", "activations", "atoms", "encodes per activation", "seconds", "held-out FVU"]
    rows = [
        (
            row["policy"],
            f"{row['window']:,}",
            f"{row['activations']:,}",
            f"{row['atoms']:,}",
            f"{row['encodes per activation']:.2f}",
            f"{row['seconds']:.1f}",
            f"{row['held-out FVU']:.4f}",
            f"{row['held-out share over threshold']:.4f}",
        )
        for row in result["rows"]
    ]
    lines = [
        f"{result['model']} ({result['revision'][:12]}), {result['hook_name']}, {result['dataset']}, k = {rule['k']}, "
        f"threshold {rule['threshold']:g}, centred, seed {result['seed']}. {environment(result)}",
        "",
        *table([*head, "held-out share over threshold"], rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
