"""FVU, and the CE and KL of replacing each site, as sums by held-out document, of which figures are made at the end."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.joint.entries import Entry
from benchmarks.joint.losses import LOSSES, Losses
from benchmarks.joint.settings import Setting
from itda_lightning.comparison.bootstrap import DocumentSums
from itda_lightning.dictionary.reconstruction_error import variance
from itda_lightning.machine.atomic_files import write_json

BATCH = 1024  # activations
MOMENTS = ("squares", "x", "tokens")
Sums = dict[str, Any]  # by document: the squared errors of a site, and what the two losses are ratios of


class HeldOut:
    """The held-out activations of a setting."""

    def __init__(self, setting: Setting, losses: Losses) -> None:
        self.setting, self.text, self.losses = setting, setting.of.aligned, losses
        self.x = {
            site: torch.from_numpy(self.text.arrays(model, "heldout")[hook])
            for site, (model, hook) in setting.sites.items()
        }
        self.moments = {}
        for site, x in self.x.items():
            self.moments[site] = DocumentSums(self.text.documents)
            x = x.double()
            self.moments[site].update(self.text.documents, tokens=torch.ones(len(x)), x=x, squares=x.square().sum(1))

    def measure(self, entry: Entry) -> dict[str, Any]:
        """Return the sums of an entry by site, with its seconds and its atoms per token and site."""
        parts = [entry.explain({site: x[rows] for site, x in self.x.items()}) for rows in self._batches()]
        found: dict[str, Any] = {"seconds": entry.seconds}
        found["l0 per layer"] = float(torch.cat([l0.double() for _, l0 in parts]).mean())
        found["sums"] = {}
        for site, x in self.x.items():
            x_hat = torch.cat([of[site] for of, _ in parts]).float()
            errors = (x.double() - x_hat.double()).square().sum(1)
            sums = self.moments[site].documents.sums(self.text.documents, errors)
            found["sums"][site] = {"errors": sums.tolist(), **self.losses.measure(*self.setting.sites[site], x_hat)}
        return found

    def figures(self, row: dict[str, Any], reference: dict[str, Any] | None) -> dict[str, Any]:
        """Return FVU, CE increase and KL by site with their errors; and less those of a reference, paired."""
        found: dict[str, Any] = {name: row[name] for name in ("seconds", "l0 per layer", "commit")}
        for site in self.x:
            own = row["sums"][site]
            found[site] = self._of_site(site, own, None)
            if reference is not None:
                found[f"{site}, less"] = self._of_site(site, own, reference["sums"][site])
        return found

    def _of_site(self, site: str, own: Sums, other: Sums | None) -> dict[str, list[float | None]]:
        sums = self.moments[site]
        errors = torch.tensor(own["errors"], dtype=torch.float64)
        sums.sums["errors"] = errors if other is None else errors - torch.tensor(other["errors"], dtype=torch.float64)
        fvu = sums.estimate(lambda errors, *moments: errors / variance(*moments), "errors", *MOMENTS)
        found = {"FVU": fvu}
        for name in LOSSES:
            above, below = torch.tensor(own[name], dtype=torch.float64)
            if other is not None:
                above = above - torch.tensor(other[name][0], dtype=torch.float64)
            found[name] = DocumentSums(torch.arange(len(above))).ratio(above, below)
        return {name: [estimate.value, estimate.error] for name, estimate in found.items()}

    def _batches(self) -> list[slice]:
        n = len(self.text.documents)
        return [slice(start, start + BATCH) for start in range(0, n, BATCH)]


def kept_sums(file: Path, held_out: HeldOut, make: Callable[[], Entry], commit: str) -> dict[str, Any]:
    """Return the sums of an entry, made and measured unless a file has them."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {**held_out.measure(make()), "commit": commit})
    known: dict[str, Any] = json.loads(file.read_text())
    return known
