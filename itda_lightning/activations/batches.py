"""Cut kept activations with their sources into batches, in the order of rows; reading can resume at any batch."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from itda_lightning.activations.cache import SHARD_ROWS, ActivationCache
from itda_lightning.activations.harvesting import RowActivations
from itda_lightning.activations.text.rows import Rows
from itda_lightning.activations.usable import BadActivations, usable

# Yields the activations of blocks of rows from a given row on.
Reader = Callable[[int], Iterator[RowActivations]]
# Runs the language model over rows from a given row on.
Harvest = Callable[[Rows, int], Iterator[RowActivations]]


class UsableActivations(NamedTuple):
    """Activations of one hook point that are finite and not all zero, with their sources.

    Attributes:
        x: (batch, d_in) float32 activations.
        table: (batch, 6) int64 sources, columns as in ``sources.COLUMNS``.
    """

    x: Float[Tensor, "batch d"]
    table: Int[Tensor, "batch 6"]


@dataclass
class ActivationBatch:
    """Kept activations in the order of their rows and positions.

    Attributes:
        activations: hook point -> (batch, d_in) float32.
        table: (batch, 6) int64 sources, columns as in ``sources.COLUMNS``.
    """

    activations: dict[str, Float[Tensor, "batch d"]]
    table: Int[Tensor, "batch 6"]

    def __len__(self) -> int:
        return len(self.table)

    def usable(self, hook_name: str, policy: BadActivations = "skip") -> UsableActivations:
        """Return the activations at a hook point that are finite and not all zero; see ``usable.usable``."""
        x = self.activations[hook_name]
        good = usable(x, self.table, hook_name, policy)
        return UsableActivations(x[good], self.table[good])


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
    so that a resumed fit sees the same bits.
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


class RowReader:
    """Read the activations of rows in batches: from their cache, or from the language model if there is none.

    Args:
        rows: what the model reads; the cache may hold more rows after them.
        cache: a complete cache; None to harvest.
        harvest: runs the language model, ``model_batch_size`` rows at a time.
        model_batch_size: rows in one forward pass.
        memory: keeps what the first pass of a ``loader`` computes, for the passes that follow; None to compute anew.
    """

    def __init__(
        self,
        rows: Rows,
        cache: ActivationCache | None,
        harvest: Harvest,
        model_batch_size: int,
        memory: list[RowActivations] | None = None,
    ) -> None:
        self.rows, self._cache, self._harvest = rows, cache, harvest
        self._model_batch_size, self._memory = model_batch_size, memory

    def loader(self, batch_size: int) -> ActivationLoader:
        """Return batches of all kept activations, in order."""
        block = self._model_batch_size if self._cache is None else SHARD_ROWS
        return ActivationLoader(self.rows, self._read, batch_size, block)

    def reordered(self, order: Int[Tensor, " m"], batch_size: int) -> ActivationLoader:
        """Return batches of the kept activations of the rows ``order``, in that order."""
        rows, cache = self.rows.select(order), self._cache

        def read(start: int) -> Iterator[RowActivations]:
            if cache is None:
                yield from self._harvest(rows, start)
                return
            for index, row in enumerate(order[start:].tolist(), start):
                yield RowActivations(index, cache.read(row, row + 1).activations)

        return ActivationLoader(rows, read, batch_size, 1)

    def _read(self, start: int) -> Iterator[RowActivations]:
        if self._cache is not None:
            for row in range(start, len(self.rows), SHARD_ROWS):
                yield self._cache.read(row, min(row + SHARD_ROWS, len(self.rows)))
        elif self._memory is None:
            yield from self._harvest(self.rows, start)
        else:
            if not self._memory:
                self._memory += self._harvest(self.rows, 0)
            yield from (part for part in self._memory if part.first_row >= start)


def usable_batches(
    batches: Iterable[ActivationBatch], hook_name: str, description: str | None
) -> Iterator[UsableActivations]:
    """Yield the usable activations at a hook point of every batch that has any, with a progress bar if described."""
    for batch in tqdm(batches, desc=description, unit=" batches", leave=False, disable=description is None):
        usable_part = batch.usable(hook_name)
        if len(usable_part.x):
            yield usable_part


def _join(batches: list[ActivationBatch]) -> ActivationBatch:
    hooks = batches[0].activations
    return ActivationBatch(
        {hook: torch.cat([batch.activations[hook] for batch in batches]) for hook in hooks},
        torch.cat([batch.table for batch in batches]),
    )


def _cut(batch: ActivationBatch, start: int, stop: int) -> ActivationBatch:
    return ActivationBatch({hook: x[start:stop] for hook, x in batch.activations.items()}, batch.table[start:stop])
