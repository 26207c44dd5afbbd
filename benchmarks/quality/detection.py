"""Measure by which strength the label of an atom, the token that names it, is found best in held-out text; no judge.

    python -m benchmarks.quality.detection --dictionary RUN

Strengths: the |coefficient| of the dictionary's codes, of shorter codes (k 8), of codes pruned to a mean L0 of 16 and
of 8, the cosine (``Dictionary.detect``), and the cosine after whitening. For each: the share of an atom's 50 strongest
held-out tokens that are its label's token (ratio of sums over all atoms), and the AUROC of the label's token among all
held-out tokens (mean over atoms whose token occurs at least 5 times; no use ranks below any use). Beside both the same
with the labels of other atoms, which is chance: frequent tokens are alike. Labels come from training documents.

A second table asks from the token: of the 4 detections per token that are strongest over all held-out tokens and atoms,
the share whose atom is labelled by the very token, and the share of tokens with such a detection among those that some
atom is labelled by. Detections are ranked by the cosine; by the cosine in units of its spread for the atom; and by
how many training activations have a larger cosine with the atom (a threshold per atom at a quantile).
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from jsonargparse import auto_cli
from torch import Tensor

from benchmarks.results import Study, describe, environment, table, write_results
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.sources import COLUMNS
from itda_lightning.evaluation.data_of import load_with_data

RESULTS = Path(__file__).parent / "results"
TOP, LEAST_HELD_OUT, BLOCK = 50, 5, 256
DETECTIONS, SAMPLE = 4, 16_384
ROW, POSITION = COLUMNS.index("row"), COLUMNS.index("position")
Strength = Callable[[slice], Tensor]


def strengths(dictionary: Dictionary, x: Float[Tensor, "tokens d"]) -> Iterator[tuple[str, float, float, Strength]]:
    """Yield each strength: its name, mean L0, share of variance explained, and its values (tokens, some atoms)."""
    centred = dictionary.centre(x)
    total = (x - x.mean(0)).square().sum()

    def of_codes(name: str, other: Dictionary) -> tuple[str, float, float, Strength]:
        code = other.encode(x)
        dense = code.to_dense(other.n_atoms).abs()
        explained = 1 - float(code.residual_energy.double().sum() / total)
        return name, float(code.l0().double().mean()), explained, lambda atoms: dense[:, atoms]

    def like(k: int) -> Dictionary:
        options: dict[str, Any] = {"pursuit": dictionary.pursuit, "nonnegative": dictionary.nonnegative}
        return Dictionary(dictionary.atoms, dictionary.bias, k=k, **options)

    yield of_codes("coefficients", like(dictionary.k))
    yield of_codes("coefficients, k 8", like(8))
    for l0 in (16, 8):
        pruned = like(dictionary.k)
        pruned.calibrate_l0(x[: len(x) // 4], l0)
        yield of_codes(f"coefficients, pruned to {l0}", pruned)
    detected = dictionary.detect(x)
    yield "cosine", dictionary.n_atoms, float("nan"), lambda atoms: detected[:, atoms]
    spread = torch.cov(centred.T.double())
    values, vectors = torch.linalg.eigh(spread)
    whiten = ((vectors / (values + 0.01 * values.mean()).sqrt()) @ vectors.T).float()
    unit = torch.nn.functional.normalize
    white_x, white_atoms = unit(centred @ whiten, dim=1), unit(dictionary.atoms.float() @ whiten, dim=1)
    yield "whitened cosine", dictionary.n_atoms, float("nan"), lambda atoms: white_x @ white_atoms[atoms].T


def figures(strength: Strength, tokens: Int[Tensor, " tokens"], labels: Int[Tensor, " n"]) -> tuple[float, float, int]:
    """Return the share of the strongest tokens that are the label's, the mean AUROC, and the atoms of the latter."""
    hits, shown, areas = 0, 0, []
    for start in range(0, len(labels), BLOCK):
        values = strength(slice(start, start + BLOCK))
        is_label = tokens[:, None] == labels[None, start : start + BLOCK]
        best, place = values.topk(min(TOP, len(values)), dim=0)
        used = best != 0
        hits += int((is_label.gather(0, place) & used).sum())
        shown += int(used.sum())
        areas += [area_of(values[:, a], is_label[:, a]) for a in range(values.shape[1])]
    measured = [area for area in areas if area is not None]
    return hits / max(shown, 1), sum(measured) / max(len(measured), 1), len(measured)


def by_token(
    dictionary: Dictionary, x: Tensor, training: Tensor, tokens: Int[Tensor, " tokens"], labels: Int[Tensor, " n"]
) -> list[dict[str, Any]]:
    """Return precision and recall of the strongest detections, by each way to compare those of different atoms."""
    found, known = dictionary.detect(x), dictionary.detect(training)
    ordered = known.T.contiguous().sort(dim=1).values
    below = torch.searchsorted(ordered, found.T.contiguous()).T.float()
    spread = known.std(0)
    ways = {
        "cosine": found,
        "cosine in standard deviations of the atom": (found - known.mean(0)) / spread,
        "quantile of the atom": below + found / 2,  # of equal quantiles the larger cosine
    }
    named = torch.isin(tokens, labels)
    rows = []
    for name, values in ways.items():
        least = values.flatten().topk(DETECTIONS * len(x)).values[-1]
        token, atom = (values >= least).nonzero().T
        right = tokens[token] == labels[atom]
        share = float(named[token[right].unique()].sum() / named.sum())
        rows.append(
            {"ranked by": name, "detections": len(token), "precision": float(right.double().mean()), "recall": share}
        )
        print(rows[-1], flush=True)
    return rows


def area_of(values: Float[Tensor, " tokens"], positive: Bool[Tensor, " tokens"]) -> float | None:
    """Return the AUROC, ties counting half; None with fewer than 5 positive tokens."""
    n_positive, n = int(positive.sum()), len(values)
    if n_positive < LEAST_HELD_OUT or n_positive == n:
        return None
    ordered, of_positive = values.sort().values, values[positive]
    below = torch.searchsorted(ordered, of_positive) + torch.searchsorted(ordered, of_positive, right=True)
    return (float(below.sum()) / 2 - n_positive**2 / 2) / (n_positive * (n - n_positive))


def run(dictionary: str, hook_name: str | None = None, results: str = str(RESULTS)) -> None:
    """Measure and write the table.

    Args:
        dictionary: a run directory.
        hook_name: which of several.
        results: directory for detection.json and detection.md.
    """
    start = time.perf_counter()
    loaded, hook, data = load_with_data(dictionary, hook_name, None, "cpu")
    training, held_out = data.rows("train"), data.rows("heldout")
    labels = training.tokens[loaded.labels[:, ROW], loaded.labels[:, POSITION]]
    parts = list(data.heldout_batches(hook, d_in=loaded.d_in, description="Held-out activations"))
    x = torch.cat([part.x for part in parts])
    places = torch.cat([part.table for part in parts])
    tokens = held_out.tokens[places[:, ROW], places[:, POSITION]]
    others = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    rows = []
    for name, l0, explained, strength in strengths(loaded, x):
        share, area, atoms = figures(strength, tokens, labels)
        chance, chance_area, _ = figures(strength, tokens, others)
        rows.append(
            {
                "strength": name,
                "mean L0": l0,
                "EV": explained,
                "label rate": share,
                "by chance": chance,
                "AUROC": area,
                "AUROC by chance": chance_area,
                "atoms in AUROC": atoms,
            }
        )
        print(rows[-1], flush=True)
    sample = data.calibration_batch(SAMPLE).usable(hook).x
    of_tokens = by_token(loaded, x, sample, tokens, labels)
    model = data.model_name
    study = Study(
        "quality/detection", model.name, model.fingerprint(), hook, data.hparams["dataset"], training.n_kept, 0
    )
    result = {
        **describe(study),
        "atoms": loaded.n_atoms,
        "heldout": len(x),
        "seconds": time.perf_counter() - start,
        "rows": rows,
        "by_token": of_tokens,
    }
    write_results(Path(results), "detection", result, as_markdown(result))


def as_markdown(result: dict[str, Any]) -> str:
    """Return both tables."""
    title = f"# Finding the label of an atom ({result['atoms']:,} atoms, {result['heldout']:,} held-out tokens)"
    lines = [title, "", environment(result), "", *as_table(result["rows"])]
    lines += ["", f"The {DETECTIONS} strongest detections per token:", "", *as_table(result["by_token"])]
    return "\n".join(lines) + "\n"


def as_table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the lines of a table of rows with the same keys."""
    cells = [[_cell(value) for value in row.values()] for row in rows]
    return table(list(rows[0]), cells)


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "" if value is None else str(value)


if __name__ == "__main__":
    auto_cli(run, as_positional=False)
