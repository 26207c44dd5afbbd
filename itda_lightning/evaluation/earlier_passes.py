"""Stand in for the model and the store of SAELens's evals with what earlier passes of the model gave."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import psutil
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from itda_lightning.activations.harvesting import RowActivations
from itda_lightning.activations.text.rows import Rows

# Hook points whose last two axes, heads and what they hold, SAELens flattens.
OF_HEADS = ("hook_q", "hook_k", "hook_v", "hook_z")
# Predictions are kept if they take no more than this share of the machine's memory.
KEPT_SHARE = 1 / 8


class ReadRows:
    """Rows in their order, as of a store, with their activations, as of a model, though no model runs.

    Activations before ``first_position`` are zeros: they are not stored, and masked in the evals.
    """

    def __init__(self, rows: Rows, hook_name: str, parts: Iterable[RowActivations]) -> None:
        self.context_size, self._first = rows.context_size, rows.first_position
        self._tokens = iter(rows.tokens)
        self._activations = (row for part in parts for row in part.activations[hook_name])

    def get_batch_tokens(self, count: int) -> Int[Tensor, "count context"]:
        """Return the tokens of the next rows."""
        return torch.stack(list(islice(self._tokens, count)))

    def run_with_cache(
        self, tokens: Int[Tensor, "batch context"], names_filter: Sequence[str], **_: Any
    ) -> tuple[None, dict[str, Float[Tensor, "batch context ..."]]]:
        """Return the activations of the next rows, which are those of the tokens, under the one name asked for."""
        (hook_name,) = names_filter
        values = torch.stack(list(islice(self._activations, len(tokens)))).float()
        values = pad(values, (0, 0, self._first, 0))
        return None, {hook_name: values[:, :, None] if any(part in hook_name for part in OF_HEADS) else values}


class KeptPredictions:
    """A model that predicts the same tokens only once unless activations are replaced, if memory can keep them."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._kept: dict[bytes, tuple[Tensor, Tensor]] = {}
        self._room = int(KEPT_SHARE * psutil.virtual_memory().total)

    def __call__(self, tokens: Int[Tensor, "batch context"], **options: Any) -> tuple[Tensor, Tensor]:
        """Return the logits and losses of a batch, as the model does with the options of the evals."""
        key = tokens.cpu().numpy().tobytes()
        if key in self._kept:
            logits, losses = self._kept[key]
            return logits.to(tokens.device), losses.to(tokens.device)
        logits, losses = self.model(tokens, **options)
        self._room -= logits.numel() * logits.itemsize
        if self._room >= 0:
            self._kept[key] = logits.cpu(), losses.cpu()
        return logits, losses

    def run_with_hooks(self, *arguments: Any, **options: Any) -> Any:
        """Run the model with replaced activations."""
        return self.model.run_with_hooks(*arguments, **options)
