"""CE and KL of replacing the activations at a hook point, for reconstructions that are there already."""

import json
from typing import Any

import torch
import xxhash
from jaxtyping import Float
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.joint.settings import Text
from benchmarks.transcoders.losses import MLPLosses
from itda_lightning.activations.text.rows import Rows
from itda_lightning.comparison.losses import LossMeter
from itda_lightning.machine.atomic_files import write_json
from itda_lightning.results.comparison import Estimate

LOSSES = ("CE increase", "KL")


class Losses:
    """The losses of a text's models on the first held-out rows, for all its settings.

    Those of the same reconstructions are measured once, as settings share what explains one site.
    """

    def __init__(self, text: Text, n_rows: int) -> None:
        self.text, self.n_rows = text, n_rows
        self._of: dict[tuple[str, str], Any] = {}

    def measure(self, model: str, hook: str, x_hat: Float[Tensor, "n d"]) -> dict[str, list[list[float]]]:
        """Return for each loss the two sums by document whose ratio it is, if the held-out activations are these."""
        key = xxhash.xxh3_64_hexdigest(x_hat.numpy().tobytes() + f"{model} {hook} {self.n_rows}".encode())
        file = self.text.directory / "losses" / f"{key}.json"
        if not file.exists():
            if (model, hook) not in self._of:
                self._of[model, hook] = self._new(model, hook)
            losses = self._of[model, hook]
            row, position = self.text.aligned.places["heldout"][model].T
            inside = row < self.n_rows
            replaced = torch.zeros(self.n_rows, losses.rows.context_size, x_hat.shape[1])
            replaced[row[inside], position[inside]] = x_hat[inside]
            sums = zip(LOSSES, losses.measure(replaced), strict=True)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, {name: [list(of.documents.above), list(of.documents.below)] for name, of in sums})
        known: dict[str, list[list[float]]] = json.loads(file.read_text())
        return known

    def _new(self, model: str, hook: str) -> "StreamLosses | AnyLosses":
        """Return the losses at a hook point; those of one model share its own predictions."""
        aligned = self.text.aligned
        data, rows = aligned.data[model], aligned.first_rows(model, self.n_rows)
        path = data.model_name.path_or_hub_name()
        if AutoConfig.from_pretrained(path).model_type != "llama":
            return AnyLosses(LossMeter(data.language_model, rows, hook))
        others = [of for (name, _), of in self._of.items() if name == model]
        loaded = others[0].model if others else AutoModelForCausalLM.from_pretrained(path).eval()
        losses = StreamLosses(loaded, rows, int(hook.split(".")[1]))
        if others:
            losses.own = others[0].own
        return losses


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
