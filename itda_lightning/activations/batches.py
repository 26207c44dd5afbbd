"""Batches: the stream of kept activations with their sources, cut into batches that any start can be taken up from."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.activations.rows_through_model import RowActivations
from itda_lightning.activations.text.rows import Rows

# What gives the activations of the row blocks from one row on: a harvest, or a cache.
Reader = Callable[[int], Iterator[RowActivations]]


@dataclass
class ActivationBatch:
    """Kept activations in the order of their rows and positions.

    Attributes:
        activations: for every hook point (batch, d_in).
        table: (batch, 6) int64 sources, columns as in ``sources.COLUMNS``.
    """

    activations: dict[str, Float[Tensor, "batch d"]]
    table: Int[Tensor, "batch 6"]

    def __len__(self) -> int:
        return len(self.table)


class ActivationLoader:
    """Iterates over batches of exactly ``batch_size`` activations (the last may be shorter), always the same ones.

    It knows its length without the model and, as Lightning's stateful loaders do, saves how many batches it gave, so a
    resumed fit reads on from there. Rows are read in blocks that begin at multiples of ``block_rows`` whatever the
    start, so that a resumed fit sees the very same bits.
    """

    def __init__(self, rows: Rows, read_from: Reader, batch_size: int, block_rows: int) -> None:
        self.rows, self.read_from = rows, read_from
        self.batch_size, self.block_rows = batch_size, block_rows
        self.given = 0
        self._resume_at = 0

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
            waiting.append(self._select(part))
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

    def _select(self, part: RowActivations) -> ActivationBatch:
        n_rows = len(next(iter(part.activations.values())))
        mask = self.rows.kept[part.first_row : part.first_row + n_rows, self.rows.first_position :]
        row, position = mask.nonzero(as_tuple=True)
        table = self.rows.source_table(row + part.first_row, position + self.rows.first_position)
        return ActivationBatch({hook: values[mask].float() for hook, values in part.activations.items()}, table)


def _join(batches: list[ActivationBatch]) -> ActivationBatch:
    hooks = batches[0].activations
    return ActivationBatch(
        {hook: torch.cat([batch.activations[hook] for batch in batches]) for hook in hooks},
        torch.cat([batch.table for batch in batches]),
    )


def _cut(batch: ActivationBatch, start: int, stop: int) -> ActivationBatch:
    return ActivationBatch({hook: x[start:stop] for hook, x in batch.activations.items()}, batch.table[start:stop])
