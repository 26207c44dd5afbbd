"""Activations of all models on the tokens that they have in common, in batches, read from the caches of their harvests."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from itda_lightning.across_models.alignment import AlignedTokens
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.errors import InputError

BATCH = 4096


class AlignedActivations:
    """Held-out activations of several models, row i of all on the same position of the same text.

    Args:
        datas: of each model, harvested into its cache.
        hook_names: of each model, those that are wanted.
        tokens: what the models have in common, of their held-out rows.

    Attributes:
        documents: (n,) int64 the document of each token.

    Raises:
        InputError: no token at which all activations are finite and not all zero.
    """

    def __init__(
        self, datas: Sequence[ActivationsDataModule], hook_names: Sequence[Sequence[str]], tokens: AlignedTokens
    ) -> None:
        self._datas, self._hook_names, self._tokens = datas, hook_names, tokens
        usable = torch.ones(len(tokens.spans), dtype=torch.bool)
        for start, parts in self._batches("Check activations"):
            for x in parts:
                usable[start : start + len(x)] &= torch.isfinite(x).all(1) & (x != 0).any(1)
        self.left_out = int((~usable).sum())
        if not bool(usable.any()):
            raise InputError(
                f"at none of {len(usable):,} tokens in common are the activations of all models finite and not all zero: look at "
                "model_dtype, or compare other hook points"
            )
        self._tokens = tokens.select(usable)
        self.documents = self._tokens.spans[:, 0]

    def __len__(self) -> int:
        return len(self.documents)

    def batches(self, what: str) -> Iterator[tuple[slice, list[Float[Tensor, "batch _"]]]]:
        """Which of the tokens, and the activations of every hook point of every model there, float32; with a progress bar."""
        for start, parts in self._batches(what):
            yield slice(start, start + len(parts[0])), parts

    def at(self, index: Int[Tensor, " m"]) -> list[Float[Tensor, "m _"]]:
        """The activations of every hook point of every model at some of the tokens."""
        return self._read(index)

    def _batches(self, what: str) -> Iterator[tuple[int, list[Tensor]]]:
        n = len(self._tokens.spans)
        with tqdm(total=n, desc=what, unit=" tokens", unit_scale=True) as bar:
            for start in range(0, n, BATCH):
                index = torch.arange(start, min(start + BATCH, n))
                yield start, self._read(index)
                bar.update(len(index))

    def _read(self, index: Int[Tensor, " m"]) -> list[Tensor]:
        parts = []
        for data, hook_names, places in zip(self._datas, self._hook_names, self._tokens.places, strict=True):
            parts += _activations(data, hook_names, places[index])
        return parts


def _activations(data: ActivationsDataModule, hook_names: Sequence[str], places: Int[Tensor, "m 2"]) -> list[Tensor]:
    """At (row, position), by reading runs of consecutive rows."""
    cache = data.cache("heldout")
    assert cache is not None
    x = {hook: torch.empty(len(places), cache.widths[hook]) for hook in hook_names}
    rows = places[:, 0].unique()
    for run in rows.tensor_split((rows.diff() > 1).nonzero()[:, 0] + 1):
        first, last = int(run[0]), int(run[-1])
        inside = (places[:, 0] >= first) & (places[:, 0] <= last)
        row, position = (places[inside] - torch.tensor([first, data.rows("heldout").first_position])).T
        read = cache.read(first, last + 1).activations
        for hook, values in x.items():
            values[inside] = read[hook][row, position].float()
    return list(x.values())
