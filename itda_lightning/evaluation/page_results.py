"""Measure what the page about one dictionary shows."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.text.rows import Rows
from itda_lightning.dictionary.dictionary import REFINEMENT, Dictionary
from itda_lightning.dictionary.reconstruction_error import ReconstructionSums
from itda_lightning.dictionary.sources import Prompt, Source
from itda_lightning.errors import InputError
from itda_lightning.evaluation.atom_meanings import atom_meanings
from itda_lightning.evaluation.decomposition import decompose
from itda_lightning.evaluation.facts_strip import data_facts, machine_facts, short
from itda_lightning.evaluation.held_out_codes import POSITION, ROW, evenly
from itda_lightning.evaluation.usage import UsageMeter, unexplained_shares
from itda_lightning.machine.bundled_names import described, in_words
from itda_lightning.pursuit import PURSUITS
from itda_lightning.results.run_results import ReadRow, RunResults, TokenCode, TokenDecomposition, Usage
from itda_lightning.saelens.controls import random_dictionary

DECOMPOSITIONS = 3
WORST = 12
# Rows whose tokens can be clicked on the page; each takes about 12 kB of it.
READ_ROWS = 24
# The figures of an evaluation that stand on the page, in this order.
EVALUATED = (
    "ce_loss_without_sae",
    "ce_loss_with_sae",
    "ce_loss_with_ablation",
    "ce_loss_score",
    "kl_div_with_sae",
    "kl_div_score",
    "cossim",
    "loss_tokens_evaluated",
)


def measure_for_page(
    dictionary: Dictionary, data: ActivationsDataModule, hook_name: str, evaluation: dict[str, float]
) -> RunResults:
    """Measure a dictionary on held-out activations, in one pass; metrics of an ``evaluation`` are shown beside.

    Raises:
        InputError: activations of another width than the atoms, or none that can be used.
    """
    measured = _measure(dictionary, data, hook_name)
    usage, random = measured.usage, _random_atoms(dictionary, data, hook_name, measured.usage)
    growth = tuple((seen, n_atoms) for seen, n_atoms in dictionary.metadata.get("growth", []))
    fvu_curve = tuple((entry["seen"], entry["fvu"]) for entry in dictionary.metadata.get("validation", []))
    return RunResults(
        title=f"{in_words(data.model_name.name)}, at {hook_name}",
        facts=_facts(dictionary, data, hook_name, usage),
        metrics={
            "n_atoms": dictionary.n_atoms,
            "fvu": usage.fvu,
            **({} if random is None else {"fvu_random": random.fvu}),
            "unexplained": measured.unexplained,
            **({} if random is None else {"unexplained_random": random.unexplained}),
            "l0": usage.l0,
            "dead_atoms": usage.dead_atoms,
            **({} if math.isnan(usage.label_rate) else {"label_rate": usage.label_rate}),
            **{name: evaluation[name] for name in EVALUATED if name in evaluation},
        },
        usage=usage,
        decompositions=measured.decompositions,
        worst=measured.worst,
        reading=measured.reading,
        meanings=atom_meanings(dictionary, data, hook_name),
        signed=not dictionary.nonnegative,
        # A single point is no curve.
        growth=growth if len(growth) > 1 else (),
        fvu_curve=fvu_curve if len(fvu_curve) > 1 else (),
    )


class _Measured(NamedTuple):
    usage: Usage
    unexplained: float
    decompositions: tuple[TokenDecomposition, ...]
    worst: tuple[TokenDecomposition, ...]
    reading: tuple[ReadRow, ...]


def _measure(dictionary: Dictionary, data: ActivationsDataModule, hook_name: str) -> _Measured:
    """Measure usage; decompose tokens evenly spread over the held-out ones, the worst explained, and whole rows."""
    rows, meter = data.rows("heldout"), UsageMeter(dictionary)
    chosen = torch.linspace(0, rows.n_kept - 1, DECOMPOSITIONS + 2)[1:-1].long().unique()
    read = evenly(len(rows), READ_ROWS)
    spread, in_rows, first = _Kept(), _Kept(), 0
    worst, shares, total = _Kept(), torch.zeros(0, dtype=torch.float64), 0.0
    for x, table in data.heldout_batches(hook_name, d_in=dictionary.d_in, description="Held-out activations"):
        new = meter.update(x, table)
        total += float(new.sum())
        inside = chosen[(chosen >= first) & (chosen < first + len(x))] - first
        spread.add(x[inside], table[inside])
        of_rows = torch.isin(table[:, ROW], read)
        in_rows.add(x[of_rows], table[of_rows])
        worst.add(x, table)
        shares, order = torch.cat([shares, new]).sort(descending=True, stable=True)
        worst, shares = worst.select(order[:WORST]), shares[:WORST]
        first += len(x)
    usage = meter.compute(rows.prompt)
    return _Measured(
        usage,
        total / first,
        tuple(decompose(dictionary, spread.x, spread.prompts(rows))),
        tuple(decompose(dictionary, worst.x, worst.prompts(rows))),
        tuple(_reading(dictionary, rows, read.tolist(), in_rows)),
    )


class _Kept:
    """Activations that are kept, with their sources."""

    def __init__(self) -> None:
        self._x: list[Tensor] = []
        self._table: list[Tensor] = []

    def add(self, x: Tensor, table: Tensor) -> None:
        self._x.append(x)
        self._table.append(table)

    @property
    def x(self) -> Tensor:
        return torch.cat(self._x)

    @property
    def table(self) -> Tensor:
        return torch.cat(self._table)

    def select(self, places: Tensor) -> "_Kept":
        selected = _Kept()
        selected.add(self.x[places], self.table[places])
        return selected

    def prompts(self, rows: Rows) -> list[Prompt]:
        return [rows.prompt(Source(*source)) for source in self.table.tolist()]


def _reading(dictionary: Dictionary, rows: Rows, read: list[int], kept: _Kept) -> Iterator[ReadRow]:
    """Yield the rows that are read, with the codes of their tokens."""
    codes: dict[tuple[int, int], TokenCode] = {}
    nowhere = Prompt("", "", "")
    decompositions = decompose(dictionary, kept.x, [nowhere] * len(kept.x))
    for (row, position), found in zip(kept.table[:, [ROW, POSITION]].tolist(), decompositions, strict=True):
        atoms, coefficients = (
            zip(*((t.atom, t.coefficient) for t in found.terms), strict=True) if found.terms else ((), ())
        )
        codes[row, position] = TokenCode(found.unexplained, found.norm, atoms, coefficients)
    for row in read:
        pieces = tuple(rows.pieces(row))
        yield ReadRow(pieces, tuple(codes.get((row, position)) for position in range(len(pieces))))


class _Random(NamedTuple):
    fvu: float
    unexplained: float


def _random_atoms(dictionary: Dictionary, data: ActivationsDataModule, hook_name: str, usage: Usage) -> _Random | None:
    """Measure as many training activations drawn at random, if they are on disk and enough of them differ."""
    if data.stored("train") is None:
        return None
    l0 = usage.l0 if dictionary.least_gain else None
    settings = (dictionary.n_atoms, dictionary.k, dictionary.pursuit, dictionary.bias)
    try:
        random = random_dictionary(data, hook_name, *settings, nonnegative=dictionary.nonnegative, l0=l0)
    except InputError:
        return None
    sums, shares = ReconstructionSums(random.d_in), 0.0
    for x, _ in data.heldout_batches(hook_name):
        code = random.encode(x)
        sums.update(random.centre(x), code.residual_energy, code.l0())
        shares += float(unexplained_shares(random, x, code).sum())
    result = sums.compute()
    return _Random(result.fvu, shares / result.tokens)


def _facts(dictionary: Dictionary, data: ActivationsDataModule, hook_name: str, usage: Usage) -> dict[str, str]:
    metadata: dict[str, Any] = dictionary.metadata
    fit, settings, threshold = metadata.get("fit", {}), metadata.get("data", {}), metadata.get("threshold")
    strip, budget = data_facts(data, hook_name), settings.get("training_tokens")
    facts = {
        **{name: strip[name] for name in ("model", "model fingerprint", "hook point")},
        "dataset": described(str(settings["dataset"])) if "dataset" in settings else strip["dataset"],
        "dataset fingerprint": short(dictionary.dataset or data.documents.fingerprint),
        "activations read": f"{metadata.get('activations_seen', 0):,} of {budget:,} tokens" if budget else "",
        "held-out activations": f"{usage.n_tokens:,} of {data.rows('heldout').tokens.numel():,} tokens",
        "pursuit": f"{PURSUITS[dictionary.pursuit].title}, k = {dictionary.k}"
        + (", non-negative" if dictionary.nonnegative else ""),
        "growth": str(fit.get("growth", "")).replace("_", " "),
        "refinement": _refinement(metadata.get(REFINEMENT)),
        "threshold": _threshold(threshold, fit.get("energy_exponent", 1.0)),
        "seed": strip["seed"],
        **machine_facts(),
    }
    return {name: value for name, value in facts.items() if value}


def _threshold(threshold: float | None, exponent: float) -> str:
    if threshold is None:
        return ""
    return f"{threshold:.4f} of the energy" + ("" if exponent == 1 else f" to the power {exponent:g}")


def _refinement(facts: dict[str, Any] | None) -> str:
    if facts is None:
        return ""
    bound = "" if facts["anchor"] is None else f" at least {facts['anchor']}"
    reached = f", {facts['mean_cosine']:.3f} on average" if "mean_cosine" in facts else ""
    unmixed = f", unmixed above cosine {facts['unmix']}" if facts.get("unmix") is not None else ""
    labels = f", with the label {facts['mean_label_cosine']:.3f} on average" if "mean_label_cosine" in facts else ""
    return f"{facts['passes']} passes, cosine with the source{bound or ' not bounded'}{reached}{unmixed}{labels}"
