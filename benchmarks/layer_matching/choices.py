"""Measure why the Jaccard index of sources matches few layers, by changing one choice at a time.

    python -m benchmarks.layer_matching.train
    python -m benchmarks.layer_matching.choices [--only [base,k 1]]

Dictionaries of all layers of all models are grown to one size, once on the rows in one order and once in another.
Layers are looked for in other models (read in the same order, or in the other one), and in the *same* model read in the
other order, which tells what the index can know at all; in other models read in the same order also by the index
weighted by use on held-out tokens. A row that is there is not measured again, unless it is named. Writes
results/choices.json and choices.md.
"""

import itertools
import json
import math
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from jsonargparse import auto_cli
from torch import Tensor

from benchmarks.layer_matching.accuracy import accuracy_over_models
from benchmarks.layer_matching.run import RESULTS, data_of, hook_names, models_of
from benchmarks.layer_matching.train import DATASET
from benchmarks.results import Study, describe, write_results
from itda_lightning.across_models.similarity_settings import ModelSettings
from itda_lightning.activations.batches import ActivationBatch
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.fitting.threshold import typical_energy
from itda_lightning.growth import GROWTH_POLICIES, GrowthRule
from itda_lightning.measures import expected_jaccard
from itda_lightning.pursuit import PreparedAtoms, pursue


@dataclass(frozen=True)
class Choice:
    """How dictionaries are grown; the growth policy sees one window at a time."""

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
    "16,384 tokens, 2,048 atoms, worst of all first, exponent .85": Choice(
        tokens=16_384, atoms=2048, growth="worst_first", window=16_384, exponent=0.85
    ),
    "65,536 tokens, 512 atoms": Choice(tokens=65_536),
    "65,536 tokens, 4,096 atoms": Choice(tokens=65_536, atoms=4096),
    "1,048,576 tokens, 1,024 atoms": Choice(tokens=1_048_576, atoms=1024),
    "1,048,576 tokens, 4,096 atoms": Choice(tokens=1_048_576, atoms=4096),
}
TRIALS = 8  # thresholds
HELD_OUT = 16_384  # tokens that use is counted on
SLACK = 0.05  # how much larger than requested a dictionary may be before it is cropped


class Activations:
    """Activations of all layers of one model at a time; all models read the same rows, as they share a tokenizer."""

    def __init__(
        self,
        models: Sequence[ModelSettings],
        tokens: int,
        directory: Path,
        dataset: str = DATASET,
        held_out: int = HELD_OUT,
    ) -> None:
        settings = data_of(tokens, directory, dataset) | {"validation_tokens": held_out}
        self._data = [ActivationsDataModule(**settings, **model.of_the_model) for model in models]
        for data in self._data:
            data.prepare_data()
        rows = self._data[0].rows("train")
        self.row = rows.kept.nonzero()[:, 0]

    def training(self, model: int) -> list[Float[Tensor, "n d"]]:
        """Return the training activations layer by layer."""
        return by_layer(self._data[model], self._data[model].train_dataloader())

    def held_out(self, model: int) -> list[Float[Tensor, "m d"]]:
        """Return the held-out activations layer by layer."""
        return by_layer(self._data[model], self._data[model].val_dataloader())


def by_layer(data: ActivationsDataModule, batches: Iterable[ActivationBatch]) -> list[Tensor]:
    """Return all activations of the batches, one tensor per hook point."""
    parts: dict[str, list[Tensor]] = {hook: [] for hook in data.hook_names}
    for batch in batches:
        for hook, x in batch.activations.items():
            parts[hook].append(x)
    return [torch.cat(parts.pop(hook)) for hook in data.hook_names]


def reordered(row: Int[Tensor, " n"], seed: int) -> Int[Tensor, " n"]:
    """Return the tokens with their rows in another order; ``row`` is the row of each."""
    shuffled = torch.randperm(int(row.max()) + 1, generator=torch.Generator().manual_seed(seed))
    return torch.argsort(shuffled.argsort()[row], stable=True)


def grow(x: Float[Tensor, "n d"], choice: Choice, threshold: float, most: int | None = None) -> list[int]:
    """Return the indices of the activations that become atoms, in order; stop once there are more than ``most``."""
    prepared = PreparedAtoms(torch.zeros(2 * choice.atoms, x.shape[1]), 0)
    prepared.build_gram()
    rule = GrowthRule(choice.k, "mp", False, threshold, choice.exponent, typical_energy(x))
    chosen: list[int] = []
    for start in range(0, len(x), choice.window):
        grown = GROWTH_POLICIES[choice.growth](x[start : start + choice.window], prepared, rule)
        prepared.place(prepared.n, grown.atoms)
        chosen += (start + grown.accepted).tolist()
        if most is not None and len(chosen) > most:
            break
    return chosen


def threshold_for(x: Float[Tensor, "n d"], choice: Choice) -> float:
    """Return the threshold at which all of x gives the requested number of atoms, or a few more.

    Between thresholds that give too many and too few the next one is where a power law through both gives what is
    wanted; what was found too large before all was read only bounds.
    """
    most = int((1 + SLACK) * choice.atoms)
    target = math.log((1 + SLACK / 2) * choice.atoms)
    low, high = math.log(0.003), math.log(0.97)
    known: dict[float, float] = {}
    for _ in range(TRIALS):
        inside = [known.get(end) for end in (low, high)]
        share = 0.5
        if inside[0] is not None and inside[1] is not None:
            share = min(max((inside[0] - target) / (inside[0] - inside[1]), 0.1), 0.9)
        middle = low + share * (high - low)
        n = len(grow(x, choice, math.exp(middle), 2 * most))
        if choice.atoms <= n <= most:
            return math.exp(middle)
        known[middle] = math.log(max(n, 1))
        low, high = (middle, high) if n > most else (low, middle)
    return math.exp(low)


def indices(first: Sequence[Int[Tensor, "..."]], second: Sequence[Int[Tensor, "..."]], n: int) -> Float[Tensor, "a b"]:
    """Return the Jaccard index of the first n atoms of every set in ``first`` with every set in ``second``."""
    size = 1 + max(int(atoms.max()) for atoms in itertools.chain(first, second))
    marks = [torch.zeros(len(sets), size, dtype=torch.float64) for sets in (first, second)]
    for mark, sets in zip(marks, (first, second), strict=True):
        for row, atoms in zip(mark, sets, strict=True):
            row[atoms[:n]] = 1
    common = marks[0] @ marks[1].T
    return common / (2 * n - common)


def uses(x: Float[Tensor, "m d"], atoms: Float[Tensor, "n d"], k: int) -> Float[Tensor, " n"]:
    """Return for each atom its share of all uses."""
    prepared = PreparedAtoms(torch.nn.functional.normalize(atoms, dim=1), len(atoms))
    prepared.build_gram()
    support = pursue("mp", x, prepared, k).distinct().support
    counts = support[support >= 0].bincount(minlength=len(atoms)).double()
    return counts / counts.sum()


def weighted_indices(
    sets: Sequence[Int[Tensor, " n"]], weights: Sequence[Float[Tensor, " n"]]
) -> Float[Tensor, "sites sites"]:
    """Return the weighted Jaccard index (Ruzicka 1958) of all pairs of sets; weights sum to 1."""
    members, places = torch.cat(list(sets)).unique(return_inverse=True)
    marks = torch.zeros(len(sets), len(members), dtype=torch.float64)
    for mark, place, weight in zip(marks, places.split([len(one) for one in sets]), weights, strict=True):
        mark[place] = weight
    common = torch.stack([torch.minimum(mark, marks).sum(1) for mark in marks])
    return common / (2 - common)


def measure(choice: Choice, activations: Activations, models: int) -> dict[str, Any]:
    start = time.perf_counter()
    thresholds: list[float] = []
    order = torch.arange(len(activations.row)), reordered(activations.row, 1)
    found: tuple[list[Tensor], list[Tensor]] = [], []
    centres: list[Tensor] = []
    atoms: list[Tensor] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the compiled loops run beside each other
        for model in range(models):
            x = activations.training(model)
            centres += [one.mean(0) if choice.centred else torch.zeros(one.shape[1]) for one in x]
            x = [one - centre for one, centre in zip(x, centres[-len(x) :], strict=True)]
            # Of one layer the models are alike, so one threshold serves all; what is larger is cropped.
            thresholds = thresholds or list(pool.map(lambda one: threshold_for(one, choice), x))
            for tokens, grown in zip(order, found, strict=True):
                chosen = pool.map(
                    lambda one, threshold, tokens=tokens: tokens[grow(one[tokens], choice, threshold)], x, thresholds
                )
                grown += list(chosen)
            atoms += [one[chosen] for one, chosen in zip(x, found[0][-len(x) :], strict=True)]
    (one_order, other_order), layers = found, len(thresholds)
    n = min(choice.atoms, *map(len, [*one_order, *other_order]))
    weights: list[Tensor] = []
    for model in range(models):
        sites = slice(model * layers, (model + 1) * layers)
        held_out = zip(activations.held_out(model), centres[sites], atoms[sites], strict=True)
        weights += [uses(x - centre, of_site[:n], choice.k) for x, centre, of_site in held_out]
    by_use, error_by_use = accuracy_over_models(weighted_indices([one[:n] for one in one_order], weights), models)
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
        "accuracy_by_use": by_use,
        "error_by_use": error_by_use,
        "accuracy_other_order": across,
        "error_other_order": error_across,
        "accuracy_same_model_other_order": float(of_models.mean()),
        "error_same_model_other_order": float(of_models.std() / models**0.5),
        "index_other_model": float(torch.stack(between).mean()),
        "index_same_model_other_order": float(crossed.diagonal().mean()),
        "chance": expected_jaccard(n, n, len(activations.row)),
        "seconds": time.perf_counter() - start,
    }


def main(only: list[str] | None = None, directory: Path = Path("runs/layer-matching")) -> None:
    """Measure the missing rows.

    Args:
        only: names of choices, which are measured again; all that are missing by default.
        directory: of the models and their activations.
    """
    path = RESULTS / "choices.json"
    rows: dict[str, Any] = json.loads(path.read_text())["rows"] if path.exists() else {}
    models, _ = models_of("trained", directory)
    missing = only or [name for name in CHOICES if name not in rows]
    for tokens, names in itertools.groupby(
        sorted(missing, key=lambda name: CHOICES[name].tokens), lambda name: CHOICES[name].tokens
    ):
        activations = Activations(models, tokens, directory / "trained")
        for name in names:
            rows[name] = measure(CHOICES[name], activations, len(models))
            rows = {known: rows[known] for known in CHOICES if known in rows}
            print(name, rows[name], flush=True)
            study = Study("layer_matching/choices", hook_name=hook_names(), dataset=DATASET)
            result = {**describe(study), "rows": rows}
            write_results(RESULTS, "choices", result, as_markdown(result))


def as_markdown(result: dict[str, Any]) -> str:
    lines = [
        "Layers found by the Jaccard index, ± standard error over models, and the index of the same layer:",
        "",
        "| dictionaries | atoms | accuracy | by use | other model, other order | same model, other order "
        "| index with other models | same model, other order | by chance |",
        "|---" * 9 + "|",
    ]
    for name, row in result["rows"].items():
        accuracies = [
            f"{row['accuracy' + which]:.3f} ± {row['error' + which]:.3f}"
            for which in ("", "_by_use", "_other_order", "_same_model_other_order")
        ]
        found = [f"{row[which]:.3f}" for which in ("index_other_model", "index_same_model_other_order", "chance")]
        lines.append(f"| {name} | {row['atoms']:,} | " + " | ".join([*accuracies, *found]) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
