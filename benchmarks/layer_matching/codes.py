"""Measure layer matching by measures made of sources and codes, beside those of activations, at equal tokens.

    python -m benchmarks.layer_matching.codes [--tokens '[1024, 4096, 16384]'] [--dataset corpus.jsonl] [--name large]

Sources are tokens of the training half, an eighth of as many as are compared; at each of them every layer of every
model has an activation, the atom of that source there (a transferred dictionary). They are those of one joint ITDA of
all layers of all models, grown worst first, which does not depend on an order, or tokens at random. Held-out tokens are
coded over them by every layer, and two layers are compared by their codes. Writes results/NAME.json and NAME.md; a
budget that is there is not measured again.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from jsonargparse import auto_cli
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.layer_matching.accuracy import accuracy_by_layer, accuracy_over_models, share_within_one
from benchmarks.layer_matching.anchored import Matrix, Sites, aligned_at, pairwise, relative
from benchmarks.layer_matching.choices import Activations, Choice, grow, threshold_for, weighted_indices
from benchmarks.layer_matching.run import RESULTS, hook_names, models_of
from benchmarks.layer_matching.train import DATASET
from benchmarks.results import Study, describe, environment, table, write_results
from itda_lightning.measures import cka, procrustes
from itda_lightning.pursuit import PreparedAtoms, pursue

SPARSITY, SHARE_OF_SOURCES, MOST_SOURCES = 16, 1 / 8, 1024
MOST_MATCHED = 512  # sources: with more, matching their uses one to one takes seconds per pair of layers
EXPONENT = 0.85  # as the fit command's
ROWS = 256  # tokens whose codes of all sites are held densely at a time


def joint_sources(training: Sites, n: int) -> Int[Tensor, " sources"]:
    """Return the sources of a joint ITDA of all sites, each centred and scaled to a median norm of 1."""
    x = torch.cat([one / one.norm(dim=1).median() for one in (site - site.mean(0) for site in training)], dim=1)
    choice = Choice(len(x), n, SPARSITY, "worst_first", len(x), exponent=EXPONENT)
    return torch.tensor(grow(x, choice, threshold_for(x, choice)))[:n]


def own_sources(training: Sites, n: int, layers: int) -> list[Int[Tensor, " sources"]]:
    """Return the sources of a dictionary of each site, at the thresholds that the first model's layers need."""
    choice = Choice(len(training[0]), n, SPARSITY, exponent=EXPONENT)
    thresholds = [threshold_for(x, choice) for x in training[:layers]]
    found = [torch.tensor(grow(x, choice, thresholds[site % layers])) for site, x in enumerate(training)]
    return [one[: min(n, *map(len, found))] for one in found]


class Codes:
    """Codes of all sites of the same tokens over the same number of atoms, sparse.

    Args:
        sites: held-out activations less the mean of the training activations.
        atoms: of each site.
    """

    def __init__(self, sites: Sites, atoms: Sequence[Float[Tensor, "sources d"]]) -> None:
        self.n = len(atoms[0])
        self.codes = []
        for x, of_site in zip(sites, atoms, strict=True):
            prepared = PreparedAtoms(normalize(of_site, dim=1), len(of_site))
            prepared.build_gram()
            self.codes.append(pursue("omp", x, prepared, SPARSITY).distinct())

    def dense(self, site: int, start: int = 0, stop: int | None = None) -> Float[Tensor, "rows sources"]:
        code = self.codes[site]
        return code._replace(**{name: part[start:stop] for name, part in code._asdict().items()}).to_dense(self.n)

    def blocks(self) -> Any:
        """Yield the codes of all sites, ROWS tokens at a time: (sites, rows, sources)."""
        for start in range(0, len(self.codes[0].support), ROWS):
            yield torch.stack([self.dense(site, start, start + ROWS) for site in range(len(self.codes))])

    def supports(self) -> Matrix:
        """Return the mean Jaccard index of the supports of a token."""
        total, tokens = torch.zeros(len(self.codes), len(self.codes), dtype=torch.float64), 0
        for block in self.blocks():
            used = (block != 0).float().transpose(0, 1)
            common, counts = used @ used.transpose(1, 2), used.sum(2)
            union = counts[:, :, None] + counts[:, None] - common
            total += (common / union.clamp(min=1)).double().sum(0)
            tokens += block.shape[1]
        return total / tokens

    def cosines(self) -> Matrix:
        """Return the mean cosine of the codes of a token: its support overlap, weighted by coefficients."""
        total, tokens = torch.zeros(len(self.codes), len(self.codes), dtype=torch.float64), 0
        for block in self.blocks():
            entries = normalize(block, dim=2).flatten(1)
            total += (entries @ entries.T).double()
            tokens += block.shape[1]
        return total / tokens

    def uses(self, site: int) -> Float[Tensor, "tokens sources"]:
        """Return the coefficients of each atom over tokens, centred and of norm 1: products are correlations."""
        coefficients = self.dense(site)
        return normalize(coefficients - coefficients.mean(0), dim=0)

    def correlations(self) -> tuple[Matrix, Matrix, Matrix]:
        """Compare by the correlation of the uses of atoms.

        Returns:
            The mean over atoms of the same source; over atoms matched one to one (Hungarian method), which does not
            know the sources; and the linear CKA of the codes.
        """
        sites = len(self.codes)
        same, matched, of_codes = (torch.eye(sites, dtype=torch.float64) for _ in range(3))
        uses = [self.uses(site) for site in range(sites)]
        centred = [one - one.mean(0) for one in (self.dense(site) for site in range(sites))]
        own = [float((one.T @ one).norm()) for one in centred]
        for i in range(sites):
            for j in range(i):
                products = uses[i].T @ uses[j]
                rows, columns = linear_sum_assignment(products.numpy(), maximize=True)
                same[i, j] = same[j, i] = float(products.diagonal().mean())
                matched[i, j] = matched[j, i] = float(products[rows, columns].mean())
                crossed = float((centred[i].T @ centred[j]).square().sum())
                of_codes[i, j] = of_codes[j, i] = crossed / (own[i] * own[j])
        return same, matched, of_codes


def measure(activations: Activations, models: int, tokens: int) -> list[dict[str, Any]]:
    """Return a row for each measure at one budget."""
    training = [x[:tokens] for model in range(models) for x in activations.training(model)]
    held_out = [x[:tokens] for model in range(models) for x in activations.held_out(model)]
    rows: list[dict[str, Any]] = []
    clock = time.perf_counter()

    def keep(name: str, values: Matrix) -> None:
        nonlocal clock
        accuracy, error = accuracy_over_models(values, models)
        seconds, clock = time.perf_counter() - clock, time.perf_counter()
        rows.append(
            {
                "tokens": tokens,
                "measure": name,
                "accuracy": accuracy,
                "error": error,
                "within_one": share_within_one(values, models),
                "by_layer": accuracy_by_layer(values, models),
                "sources": n,
                "seconds": seconds,
            }
        )
        print(f"{tokens:,} tokens, {name}: {accuracy:.3f} ± {error:.3f}, {seconds:.1f} s", flush=True)

    n = min(MOST_SOURCES, int(tokens * SHARE_OF_SOURCES))
    keep("orthogonal Procrustes", pairwise(held_out, procrustes))
    keep("linear CKA", pairwise(held_out, cka))
    means = [x.mean(0) for x in training]
    centred = [x - mean for x, mean in zip(held_out, means, strict=True)]
    joint = joint_sources(training, n)
    n = len(joint)
    drawn = torch.randperm(len(training[0]), generator=torch.Generator().manual_seed(0))[:n].sort().values
    seconds = time.perf_counter() - clock
    for name, sources in (("random tokens", drawn), ("ITDA", joint)):
        clock = time.perf_counter() - (seconds if name == "ITDA" else 0)
        atoms = [x[sources] - mean for x, mean in zip(training, means, strict=True)]
        keep(f"relative representations, {name}", relative(held_out, [x[sources] for x in training]))
        keep(f"relative representations, centred, {name}", relative(centred, atoms))
        keep(f"aligned at the sources, {name}", aligned_at(centred, atoms))
        codes = Codes(centred, atoms)
        keep(f"codes, supports, {name}", codes.supports())
        keep(f"codes, cosine, {name}", codes.cosines())
        if n > MOST_MATCHED:
            continue
        same, matched, of_codes = codes.correlations()
        keep(f"uses of the same source, {name}", same)
        keep(f"uses of matched atoms, {name}", matched)
        keep(f"CKA of codes, {name}", of_codes)
    if n > MOST_MATCHED:
        return rows
    own = own_sources([x - mean for x, mean in zip(training, means, strict=True)], n, len(training) // models)
    n = len(own[0])
    codes = Codes(centred, [(x - mean)[one] for x, mean, one in zip(training, means, own, strict=True)])
    keep("uses of matched atoms, own dictionaries", codes.correlations()[1])
    counts = [code.support[code.support >= 0].bincount(minlength=n).double() for code in codes.codes]
    keep("Jaccard index by use, own dictionaries", weighted_indices(own, [one / one.sum() for one in counts]))
    return rows


def main(
    tokens: Sequence[int] = (1024, 4096, 16_384),
    directory: Path = Path("runs/layer-matching"),
    dataset: str = DATASET,
    name: str = "codes",
    results: Path = RESULTS,
) -> None:
    """Measure the budgets that are missing.

    Args:
        tokens: budgets.
        directory: of the models and their activations.
        dataset: whose training half the models were trained on.
        name: of the results.
        results: directory of the results.
    """
    path = results / f"{name}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    models, training = models_of("trained", directory)
    for budget in tokens:
        if budget not in {row["tokens"] for row in rows}:
            activations = Activations(models, budget, directory / "trained", dataset, budget)
            rows += measure(activations, len(models), budget)
            study = Study("layer_matching/codes", "trained", hook_name=hook_names(), dataset=Path(dataset).name, seed=0)
            content = {**describe(study), "training": training, "rows": rows}
            write_results(results, name, content, as_markdown(content))


def as_markdown(content: dict[str, Any]) -> str:
    """Return the accuracies by measure and tokens, and how often a layer next to the same one is found."""
    rows, training = content["rows"], content["training"].values()
    budgets = sorted({row["tokens"] for row in rows})
    losses = ", ".join(f"{one['held_out_loss']:.3f}" for one in training)
    first = next(iter(training))
    lines = [
        environment(content),
        "",
        f"{len(training)} models of {first['parameters']:,} parameters, {first['training_tokens']:,} tokens, held-out "
        f"losses {losses} nats per token; {content['dataset']}.",
        "",
        f"Accuracy without self-pairs ± standard error over models (chance {1 / first['layers']:.3f}), for the most "
        "tokens how often the layer found is the same or next to it, and seconds:",
        "",
    ]
    head = ["measure", *(f"{budget:,} tokens" for budget in budgets), "same or next", "seconds"]
    names = dict.fromkeys(row["measure"] for row in rows)
    cells = []
    for name in names:
        own = {row["tokens"]: row for row in rows if row["measure"] == name}
        shown = [f"{own[b]['accuracy']:.3f} ± {own[b]['error']:.3f}" if b in own else "" for b in budgets]
        last = own[max(own)]
        cells.append([name, *shown, f"{last['within_one']:.3f}", f"{last['seconds']:.1f}"])
    sources = ", ".join(f"{max(r['sources'] for r in rows if r['tokens'] == b):,} of {b:,}" for b in budgets)
    return "\n".join([*lines, *table(head, cells), "", f"Sources of tokens: {sources}."]) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
