"""Cut kept activations with their sources into batches, in the order of rows; reading can resume at any batch."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from itda_lightning.activations.harvesting import RowActivations
from itda_lightning.activations.text.rows import Rows
from itda_lightning.dictionary.sources import Source
from itda_lightning.errors import InputError

logger = logging.getLogger(__name__)

BadActivations = Literal["skip", "refuse"]
# What to do if no activation is usable.
NONE_USABLE = "set data.model_dtype=float32, in which fewer models overflow, or name another hook point"


class UsableActivations(NamedTuple):
    """Activations of one hook point that are finite and not all zero, with the table of their sources."""

    x: Float[Tensor, "batch d"]
    table: Int[Tensor, "batch 6"]


@dataclass
class ActivationBatch:
    """Kept activations by hook point, in the order of their rows and positions, with the table of their sources."""

    activations: dict[str, Float[Tensor, "batch d"]]
    table: Int[Tensor, "batch 6"]

    def __len__(self) -> int:
        return len(self.table)

    def usable(self, hook_name: str, policy: BadActivations = "skip") -> UsableActivations:
        """Return the usable activations at a hook point; see the function ``usable``."""
        x = self.activations[hook_name]
        good = usable(x, self.table, hook_name, policy)
        return UsableActivations(x[good], self.table[good])


def usable(
    x: Float[Tensor, "batch d"], table: Int[Tensor, "batch 6"], hook_name: str, policy: BadActivations
) -> Bool[Tensor, " batch"]:
    """Return True for activations that are finite and not all zero; warn of the others or refuse, naming a few."""
    good = torch.isfinite(x).all(-1) & (x != 0).any(-1)
    if bool(good.all()):
        return good
    bad = (~good).nonzero()[:, 0].tolist()
    named = ", ".join(str(Source(*table[index].tolist())) for index in bad[:5])
    message = f"{len(bad)} of {len(x)} activations at {hook_name} are zero or not finite: {named}"
    if policy == "refuse":
        raise InputError(f"{message}; set model.bad_activations=skip to leave them out, or use model_dtype=float32")
    logger.warning("%s; they are skipped and counted", message)
    return good


def kept_activations(rows: Rows, part: RowActivations) -> ActivationBatch:
    """Return the kept activations of a block of rows with their sources."""
    n_rows = len(next(iter(part.activations.values())))
    mask = rows.kept[part.first_row : part.first_row + n_rows, rows.first_position :]
    row, position = mask.nonzero(as_tuple=True)
    table = rows.source_table(row + part.first_row, position + rows.first_position)
    return ActivationBatch({hook: values[mask].float() for hook, values in part.activations.items()}, table)


class ActivationLoader:
    """Iterate over batches of ``batch_size`` activations (the last may be shorter), the same ones in every pass.

    The length is known without the model. Like Lightning's stateful loaders it saves the number of batches given, from
    which a resumed fit reads on. Rows are read in blocks that begin at multiples of ``block_rows`` whatever the start,
    so that a resumed fit sees the same bits; ``read_from`` yields these from a given row on.
    """

    def __init__(
        self, rows: Rows, read_from: Callable[[int], Iterator[RowActivations]], batch_size: int, block_rows: int
    ) -> None:
        self.rows, self.read_from = rows, read_from
        self.batch_size, self.block_rows = batch_size, block_rows
        self.given = self._resume_at = 0

    def __len__(self) -> int:
        return -(-self.rows.n_kept // self.batch_size)

    def state_dict(self) -> dict[str, Any]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.given = self._resume_at = state["given"]

    def __iter__(self) -> Iterator[ActivationBatch]:
        self.given, self._resume_at = self._resume_at, 0
        start = self.given * self.batch_size
        kept = self.rows.kept.nonzero()
        if start >= len(kept):
            return
        first_block = int(kept[start, 0]) // self.block_rows * self.block_rows
        skip = start - int(self.rows.kept[:first_block].sum())
        waiting: list[ActivationBatch] = []
        for part in self.read_from(first_block):
            waiting.append(kept_activations(self.rows, part))
            available = sum(len(batch) for batch in waiting)
            if available - skip < self.batch_size:
                continue
            whole = _join(waiting)
            while len(whole) - skip >= self.batch_size:
                self.given += 1
                yield _cut(whole, skip, skip + self.batch_size)
                skip += self.batch_size
            waiting, skip = [_cut(whole, skip, len(whole))], 0
        rest = _join(waiting)
        if len(rest) > skip:
            self.given += 1
            yield _cut(rest, skip, len(rest))


def _join(batches: list[ActivationBatch]) -> ActivationBatch:
    hooks = batches[0].activations
    return ActivationBatch(
        {hook: torch.cat([batch.activations[hook] for batch in batches]) for hook in hooks},
        torch.cat([batch.table for batch in batches]),
    )


def _cut(batch: ActivationBatch, start: int, stop: int) -> ActivationBatch:
    return ActivationBatch({hook: x[start:stop] for hook, x in batch.activations.items()}, batch.table[start:stop])
