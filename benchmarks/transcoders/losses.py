"""Losses of a model of `transformers` if the output of one MLP is replaced: only what comes after it is run again."""

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.activations.text.rows import Rows
from itda_lightning.comparison.bootstrap import DocumentSums
from itda_lightning.results.comparison import Estimate

BATCH = 4  # rows


class MLPLosses:
    """The model's own predictions on some rows, and its stream before and after the MLP of a layer.

    As in ``comparison/losses.py``, predictions count from activations that are kept, and only these are replaced.
    """

    @torch.no_grad()
    def __init__(self, model: Any, rows: Rows, layer: int) -> None:
        self.rows = rows
        self.after = copy.copy(model)
        self.after._modules = model._modules | {"model": copy.copy(model.model)}
        layers = model.model.layers
        self.after.model._modules = model.model._modules | {"layers": layers[layer + 1 :]}
        self.own: list[Tensor] = []
        self.streams: list[Tensor] = []
        self.outputs: list[Tensor] = []
        seen: dict[str, Tensor] = {}
        handles = [
            layers[layer].register_forward_hook(lambda _, __, out: seen.update(stream=first(out))),
            layers[layer].mlp.register_forward_hook(lambda _, __, out: seen.update(output=first(out))),
        ]
        for tokens in rows.tokens.split(BATCH):
            self.own.append(torch.log_softmax(model(input_ids=tokens, use_cache=False).logits, dim=-1))
            self.streams.append(seen["stream"])
            self.outputs.append(seen["output"])
        for handle in handles:
            handle.remove()

    @torch.no_grad()
    def measure(self, replaced: Float[Tensor, "rows context d"]) -> tuple[Estimate, Estimate]:
        """Return the increase of CE and the KL, in nats per token, if these are the outputs where they are kept."""
        sums = DocumentSums(self.rows.document[self.rows.kept])
        parts = zip(self.own, self.streams, self.outputs, replaced.split(BATCH), strict=True)
        for index, (own, stream, output, new) in enumerate(parts):
            of_part = slice(index * BATCH, index * BATCH + len(own))
            kept, document = self.rows.kept[of_part], self.rows.document[of_part]
            changed = stream + torch.where(kept[..., None], new - output, 0.0)
            found = torch.log_softmax(self.after(inputs_embeds=changed, use_cache=False).logits, dim=-1)
            kl = torch.nn.functional.kl_div(found, own, reduction="none", log_target=True).sum(-1)
            sums.update(document[kept], kl=kl[kept], tokens=torch.ones(int(kept.sum())))
            targets, predicting = self.rows.tokens[of_part, 1:, None], kept[:, :-1]
            rise = (own - found)[:, :-1].gather(-1, targets)[..., 0]
            sums.update(
                document[:, :-1][predicting], rise=rise[predicting], predictions=torch.ones(len(rise[predicting]))
            )
        of = sums.sums
        return sums.ratio(of["rise"], of["predictions"]), sums.ratio(of["kl"], of["tokens"])


def first(output: Any) -> Tensor:
    """Return the activations of a block's output, which stand alone or first."""
    found: Tensor = output if isinstance(output, Tensor) else output[0]
    return found
