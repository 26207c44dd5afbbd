"""FVU, and the CE and KL of replacing each site, as sums by held-out document, of which figures are made at the end."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import xxhash
from jaxtyping import Float
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.joint.entries import Entry
from benchmarks.joint.settings import Setting
from benchmarks.transcoders.losses import MLPLosses
from itda_lightning.activations.text.rows import Rows
from itda_lightning.comparison.bootstrap import DocumentSums
from itda_lightning.comparison.losses import LossMeter
from itda_lightning.dictionary.reconstruction_error import variance
from itda_lightning.machine.atomic_files import write_json
from itda_lightning.results.comparison import Estimate

BATCH = 1024  # activations
LOSSES = ("CE increase", "KL")
MOMENTS = ("squares", "x", "tokens")
Sums = dict[str, Any]  # by document: the squared errors of a site, and what the two losses are ratios of


class StreamLosses(MLPLosses):
    """Losses of a Llama if its residual stream after a layer is replaced; only what comes after it is run again."""

    def __init__(self, model: Any, rows: Rows, layer: int) -> None:
        super().__init__(model, rows, layer)
        self.model = model
        self.outputs = self.streams  # it is the whole stream that is replaced, not the output of the MLP in it


class AnyLosses:
    """Losses of any model at any hook point, of which all is run again."""

    def __init__(self, meter: LossMeter) -> None:
        self.meter, self.rows = meter, meter.rows

    def measure(self, replaced: Float[Tensor, "rows context d"]) -> tuple[Estimate, Estimate]:
        """Return the increase of CE and the KL if these are the activations where they are kept."""
        replay: Any = Replay(replaced, self.meter.batch_size)
        losses = self.meter.measure(replay)
        return losses["ce_loss_increase"], losses["kl_div_with_sae"]


class Replay:
    """Stand in for an SAE in ``LossMeter``: give reconstructions that are there already, in the order of the rows."""

    device = "cpu"

    def __init__(self, rows: Float[Tensor, "rows context d"], batch_size: int) -> None:
        self._parts = iter(rows.split(batch_size))

    def encode(self, activations: Tensor) -> Tensor:
        return activations

    def decode(self, activations: Tensor) -> Tensor:
        part = next(self._parts)
        assert part.shape == activations.shape
        return part


class HeldOut:
    """The held-out activations of a setting, and the losses of its models on the first rows."""

    def __init__(self, setting: Setting, loss_rows: int) -> None:
        self.setting, self.text, self.loss_rows = setting, setting.of.aligned, loss_rows
        self.x = {
            site: torch.from_numpy(self.text.arrays(model, "heldout")[hook])
            for site, (model, hook) in setting.sites.items()
        }
        self.moments = {}
        for site, x in self.x.items():
            self.moments[site] = DocumentSums(self.text.documents)
            x = x.double()
            self.moments[site].update(self.text.documents, tokens=torch.ones(len(x)), x=x, squares=x.square().sum(1))
        self._losses_of: dict[tuple[str, str], Any] = {}

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
            found["sums"][site] = {"errors": sums.tolist(), **self._losses(site, x_hat)}
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

    def _losses(self, site: str, x_hat: Float[Tensor, "n d"]) -> Sums:
        """Return the sums of the losses; those of the same reconstructions are measured once."""
        model, hook = self.setting.sites[site]
        key = xxhash.xxh3_64_hexdigest(x_hat.numpy().tobytes() + f"{model} {hook} {self.loss_rows}".encode())
        file = self.setting.of.directory / "losses" / f"{key}.json"
        if not file.exists():
            if (model, hook) not in self._losses_of:
                self._losses_of[model, hook] = self._new_losses(model, hook)
            losses = self._losses_of[model, hook]
            row, position = self.text.places["heldout"][model].T
            inside = row < self.loss_rows
            replaced = torch.zeros(self.loss_rows, losses.rows.context_size, x_hat.shape[1])
            replaced[row[inside], position[inside]] = x_hat[inside]
            sums = zip(LOSSES, losses.measure(replaced), strict=True)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, {name: [list(of.documents.above), list(of.documents.below)] for name, of in sums})
        known: Sums = json.loads(file.read_text())
        return known

    def _new_losses(self, model: str, hook: str) -> "StreamLosses | AnyLosses":
        """Return the losses at a hook point; those of one model share its own predictions."""
        data, rows = self.text.data[model], self.text.first_rows(model, self.loss_rows)
        path = data.model_name.path_or_hub_name()
        if AutoConfig.from_pretrained(path).model_type != "llama":
            return AnyLosses(LossMeter(data.language_model, rows, hook))
        others = [of for (name, _), of in self._losses_of.items() if name == model]
        loaded = others[0].model if others else AutoModelForCausalLM.from_pretrained(path).eval()
        losses = StreamLosses(loaded, rows, int(hook.split(".")[1]))
        if others:
            losses.own = others[0].own
        return losses


def kept_sums(file: Path, held_out: HeldOut, make: Callable[[], Entry], commit: str) -> dict[str, Any]:
    """Return the sums of an entry, made and measured unless a file has them."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {**held_out.measure(make()), "commit": commit})
    known: dict[str, Any] = json.loads(file.read_text())
    return known
