"""Activations of all models at the tokens they have in common, in batches, read from the caches of their harvests."""

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
    """Held-out activations of several models; row i of each is the same position of the same text.

    Tokens at which an activation is zero or not finite in some model are left out.

    Args:
        datas: data of each model, harvested into its cache.
        hook_names: hook points of each model.
        tokens: held-out tokens that all models have.

    Attributes:
        documents: (n,) int64 document of each token.
        left_out: number of tokens left out.

    Raises:
        InputError: no token at which all activations are finite and not all zero.
    """

    def __init__(
        self, datas: Sequence[ActivationsDataModule], hook_names: Sequence[Sequence[str]], tokens: AlignedTokens
    ) -> None:
        self._datas, self._hook_names, self._tokens = datas, hook_names, tokens
        usable = torch.ones(len(tokens.spans), dtype=torch.bool)
        for rows, parts in self.batches("Check activations"):
            for x in parts:
                usable[rows] &= torch.isfinite(x).all(1) & (x != 0).any(1)
        self.left_out = int((~usable).sum())
        if not bool(usable.any()):
            raise InputError(
                f"at none of {len(usable):,} tokens in common are the activations of all models finite and not all "
                "zero: look at model_dtype, or compare other hook points"
            )
        self._tokens = tokens.select(usable)
        self.documents = self._tokens.spans[:, 0]

    def __len__(self) -> int:
        return len(self.documents)

    def batches(self, description: str) -> Iterator[tuple[slice, list[Float[Tensor, "batch _"]]]]:
        """Yield slices of the tokens with the activations of every hook point of every model there, float32.

        ``description`` labels the progress bar.
        """
        n = len(self._tokens.spans)
        with tqdm(total=n, desc=description, unit=" tokens", unit_scale=True) as bar:
            for start in range(0, n, BATCH):
                rows = slice(start, min(start + BATCH, n))
                yield rows, self.at(torch.arange(rows.start, rows.stop))
                bar.update(rows.stop - rows.start)

    def at(self, index: Int[Tensor, " m"]) -> list[Float[Tensor, "m _"]]:
        """Return the activations of every hook point of every model at some of the tokens, float32."""
        parts = []
        for data, hook_names, places in zip(self._datas, self._hook_names, self._tokens.places, strict=True):
            parts += _read(data, hook_names, places[index])
        return parts


def _read(data: ActivationsDataModule, hook_names: Sequence[str], places: Int[Tensor, "m 2"]) -> list[Tensor]:
    """Return the cached activations at (row, position) of each hook point, reading runs of consecutive rows."""
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
