"""CE and KL of replacing the activations at a hook point, for reconstructions that are there already."""

import copy
import json
from typing import Any

import torch
import xxhash
from jaxtyping import Float
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks.joint.settings import Text
from benchmarks.transcoders.losses import BATCH, MLPLosses, first
from itda_lightning.activations.text.rows import Rows
from itda_lightning.machine.atomic_files import write_json

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

    def _new(self, model: str, hook: str) -> "StreamLosses":
        """Return the losses at a hook point; those of one model share its own predictions."""
        aligned = self.text.aligned
        others = [of for (name, _), of in self._of.items() if name == model]
        path = aligned.data[model].model_name.path_or_hub_name()
        loaded = others[0].model if others else AutoModelForCausalLM.from_pretrained(path).eval()
        losses = StreamLosses(loaded, aligned.first_rows(model, self.n_rows), int(hook.split(".")[1]))
        if others:
            losses.own = others[0].own
        return losses


class StreamLosses(MLPLosses):
    """Losses of a Llama or GPT-2 if its residual stream after a layer is replaced; only what comes after it is run."""

    @torch.no_grad()
    def __init__(self, model: Any, rows: Rows, layer: int) -> None:
        self.model, self.rows, self.after = model, rows, copy.copy(model)
        name, blocks = ("transformer", "h") if hasattr(model, "transformer") else ("model", "layers")
        body = getattr(model, name)
        layers = getattr(body, blocks)
        later = {blocks: layers[layer + 1 :]}
        if name == "transformer":  # which adds the embeddings of positions to whatever it is given
            later["wpe"] = torch.nn.Embedding.from_pretrained(torch.zeros_like(body.wpe.weight))
        self.after._modules = model._modules | {name: copy.copy(body)}
        getattr(self.after, name)._modules = body._modules | later
        self.own, self.streams = [], []
        keep = layers[layer].register_forward_hook(lambda _, __, output: self.streams.append(first(output)))
        for tokens in rows.tokens.split(BATCH):
            self.own.append(torch.log_softmax(model(input_ids=tokens, use_cache=False).logits, dim=-1))
        keep.remove()
        self.outputs = self.streams  # it is the whole stream that is replaced, not the output of the MLP in it
