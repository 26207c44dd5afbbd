"""Why the Jaccard index of sources matches as few layers as it does: one choice of the dictionaries changed at a time.

    python benchmarks/layer_matching/train.py
    python benchmarks/layer_matching/choices.py [--only [base,k 1]]

Dictionaries of all layers of all models are grown to one size, once on the rows in one order and once in another. Layers are
looked for in other models (read in the same order, or in the other one), and in the *same* model read in the other order, which
tells what the index can know at all. A row that is there is not measured again, unless it is named. Writes
results/choices.json and choices.md.
"""

import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accuracy import accuracy_over_models
from jaxtyping import Float, Int
from jsonargparse import auto_cli
from run import RESULTS, data_of, models_of
from torch import Tensor

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.atomic_files import write_text
from itda_lightning.growth import GROWTH_POLICIES, GrowthRule
from itda_lightning.pursuit import PreparedAtoms
from itda_lightning.run_directory import versions_and_hardware
from itda_lightning.similarity import expected_jaccard
from itda_lightning.similarity.models.settings import ModelSettings
from itda_lightning.thresholds import typical_energy


@dataclass(frozen=True)
class Choice:
    """How dictionaries are grown; the window is what the growth policy sees at a time."""

    tokens: int = 4096
    atoms: int = 512
    k: int = 16
    growth: str = "sequential"
    window: int = 1024
    centred: bool = True
    exponent: float = 1.0


CHOICES = {
    "base": Choice(),
    "k 1": Choice(k=1),
    "k 4": Choice(k=4),
    "k 64": Choice(k=64),
    "256 atoms": Choice(atoms=256),
    "1,024 atoms": Choice(atoms=1024),
    "not centred": Choice(centred=False),
    "all failures of frozen batches of 256": Choice(growth="frozen_batch", window=256),
    "worst of 4,096 first": Choice(growth="worst_first", window=4096),
    "worst of all first, exponent .85": Choice(growth="worst_first", window=4096, exponent=0.85),
    "16,384 tokens, 512 atoms": Choice(tokens=16_384),
    "16,384 tokens, 2,048 atoms": Choice(tokens=16_384, atoms=2048),
    "65,536 tokens, 512 atoms": Choice(tokens=65_536),
    "65,536 tokens, 4,096 atoms": Choice(tokens=65_536, atoms=4096),
}
SLACK = 0.05  # how much larger than asked for a dictionary may be before it is cropped


@dataclass(frozen=True)
class Activations:
    """Training activations of all layers of all models, model by model, and the row of each token."""

    x: list[Float[Tensor, "n d"]]
    rows: Int[Tensor, " n"]

    @classmethod
    def read(cls, models: Sequence[ModelSettings], tokens: int, directory: Path) -> "Activations":
        x: list[Tensor] = []
        for model in models:
            data = ActivationsDataModule(**data_of(tokens, directory), **model.of_the_model)
            data.prepare_data()
            batches = list(data.train_dataloader())
            x += [torch.cat([batch.activations[hook] for batch in batches]) for hook in model.hook_names]
        # The models share a tokenizer, so they read the same rows.
        return cls(x, torch.cat([batch.table for batch in batches])[:, 1])

    def reordered(self, seed: int) -> Int[Tensor, " n"]:
        """The tokens with their rows in another order."""
        shuffled = torch.randperm(int(self.rows.max()) + 1, generator=torch.Generator().manual_seed(seed))
        return torch.argsort(shuffled.argsort()[self.rows], stable=True)


def grow(x: Float[Tensor, "n d"], choice: Choice, threshold: float) -> list[int]:
    """Which of the activations become atoms, in order."""
    prepared = PreparedAtoms(torch.zeros(2 * choice.atoms, x.shape[1]), 0)
    prepared.build_gram()
    rule = GrowthRule(choice.k, "mp", False, threshold, choice.exponent, typical_energy(x))
    chosen: list[int] = []
    for start in range(0, len(x), choice.window):
        grown = GROWTH_POLICIES[choice.growth](x[start : start + choice.window], prepared, rule)
        prepared.place(prepared.n, grown.atoms)
        chosen += (start + grown.accepted).tolist()
    return chosen


def threshold_for(x: Float[Tensor, "n d"], choice: Choice) -> float:
    """The threshold at which all of x gives as many atoms as wanted, or a few more."""
    low, high = 0.003, 0.97
    for _ in range(10):
        middle = (low * high) ** 0.5
        n = len(grow(x, choice, middle))
        if choice.atoms <= n <= (1 + SLACK) * choice.atoms:
            return middle
        low, high = (middle, high) if n > choice.atoms else (low, middle)
    return low


def indices(first: Sequence[Int[Tensor, "..."]], second: Sequence[Int[Tensor, "..."]], n: int) -> Float[Tensor, "a b"]:
    """The Jaccard index of the first n atoms of all of the first with all of the second."""
    size = 1 + max(int(atoms.max()) for atoms in itertools.chain(first, second))
    marks = [torch.zeros(len(sets), size, dtype=torch.float64) for sets in (first, second)]
    for mark, sets in zip(marks, (first, second), strict=True):
        for row, atoms in zip(mark, sets, strict=True):
            row[atoms[:n]] = 1
    common = marks[0] @ marks[1].T
    return common / (2 * n - common)


def measure(choice: Choice, activations: Activations, models: int) -> dict[str, Any]:
    start = time.perf_counter()
    layers = len(activations.x) // models
    x = [one - one.mean(0) if choice.centred else one for one in activations.x]
    # Of one layer the models are alike, so one threshold serves all; what is larger is cropped.
    thresholds = [threshold_for(one, choice) for one in x[:layers]]
    orders = torch.arange(len(x[0])), activations.reordered(1)
    one_order, other_order = (
        [order[torch.tensor(grow(part[order], choice, thresholds[site % layers]))] for site, part in enumerate(x)]
        for order in orders
    )
    n = min(choice.atoms, *map(len, [*one_order, *other_order]))
    same, crossed = indices(one_order, one_order, n), indices(one_order, other_order, n)
    accuracy, error = accuracy_over_models(same, models)
    across, error_across = accuracy_over_models(crossed, models)
    blocks = crossed.unflatten(0, (models, layers)).unflatten(2, (models, layers))
    right = [blocks[model, :, model].argmax(1) == torch.arange(layers) for model in range(models)]
    of_models = torch.stack(right).double().mean(1)
    pairs = same.unflatten(0, (models, layers)).unflatten(2, (models, layers))
    between = [pairs[a, :, b].diagonal().mean() for a, b in itertools.permutations(range(models), 2)]
    return {
        **asdict(choice),
        "atoms": n,
        "thresholds": thresholds,
        "accuracy": accuracy,
        "error": error,
        "accuracy_other_order": across,
        "error_other_order": error_across,
        "accuracy_same_model_other_order": float(of_models.mean()),
        "error_same_model_other_order": float(of_models.std() / models**0.5),
        "index_other_model": float(torch.stack(between).mean()),
        "index_same_model_other_order": float(crossed.diagonal().mean()),
        "chance": expected_jaccard(n, n, len(x[0])),
        "seconds": time.perf_counter() - start,
    }


def main(only: list[str] | None = None, directory: Path = Path("runs/layer-matching")) -> None:
    """Measure what is not there yet.

    Args:
        only: names of choices, which are measured again; all that are missing by default.
        directory: of the models and their activations.
    """
    path = RESULTS / "choices.json"
    rows: dict[str, Any] = json.loads(path.read_text())["rows"] if path.exists() else {}
    models, _ = models_of("trained", directory)
    wanted = only or [name for name in CHOICES if name not in rows]
    for tokens, names in itertools.groupby(
        sorted(wanted, key=lambda name: CHOICES[name].tokens), lambda name: CHOICES[name].tokens
    ):
        activations = Activations.read(models, tokens, directory / "trained")
        for name in names:
            rows[name] = measure(CHOICES[name], activations, len(models))
            rows = {known: rows[known] for known in CHOICES if known in rows}
            write_text(path, json.dumps({"rows": rows, "environment": versions_and_hardware()}, indent=1) + "\n")
            write_text(RESULTS / "choices.md", as_markdown(rows))
            print(name, rows[name], flush=True)


def as_markdown(rows: dict[str, Any]) -> str:
    lines = [
        "Layers found by the Jaccard index, ± standard error over models, and the index of the same layer:",
        "",
        "| dictionaries | atoms | accuracy | other model, other order | same model, other order "
        "| index with other models | same model, other order | by chance |",
        "|---" * 8 + "|",
    ]
    for name, row in rows.items():
        accuracies = [
            f"{row['accuracy' + which]:.3f} ± {row['error' + which]:.3f}"
            for which in ("", "_other_order", "_same_model_other_order")
        ]
        found = [f"{row[which]:.3f}" for which in ("index_other_model", "index_same_model_other_order", "chance")]
        lines.append(f"| {name} | {row['atoms']:,} | " + " | ".join([*accuracies, *found]) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
