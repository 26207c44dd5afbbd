"""Shuffle the training activations for methods that take several passes, in bounded memory.

A fit reads activations once, in the order of rows (``batches.py``); refinement and SAEs read them shuffled, from disk.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.activations.batches import NONE_USABLE, UsableActivations, kept_activations
from itda_lightning.activations.cache import SHARD_ROWS
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.harvesting import RowActivations
from itda_lightning.activations.text.rows import draw_rows
from itda_lightning.errors import InputError
from itda_lightning.machine.checks import check_between

BYTES = 4  # per number: activations are read as float32
EPOCHS_IN_A_BATCH = 64  # more are surely meant otherwise: filling one batch would take them all
CALIBRATION = 8192  # activations whose mean is an ITDA's bias by default


class TrainingRows:
    """The activations of the first training rows at one hook point, on disk; harvested if they are not cached yet.

    They are those of a fit: without position 0 and special tokens, if the data excludes them, and without activations
    that are zero or not finite. ``tokens`` counts training tokens from the first on, in whole rows; None is all.
    """

    def __init__(self, data: ActivationsDataModule, hook_name: str, tokens: int | None = None) -> None:
        if hook_name not in data.hook_names:
            raise InputError(f"the data hold no activations of {hook_name!r}: give one of {data.hook_names}")
        if not data.rereadable:
            raise InputError("activations are read more than once, so they must be on disk: set data.cache_dir")
        self.rows = data.rows("train")
        context, available = self.rows.context_size, self.rows.tokens.numel()
        check_between(context, available, {"tokens": tokens}, "from one row to all training tokens")
        self.n_rows = (available if tokens is None else tokens) // context
        self.kept = self.rows.kept[: self.n_rows]
        if not self.kept.any():
            raise InputError(f"the first {self.n_rows} training rows keep no activation: ask for more tokens")
        data.prepare_data()
        stored = data.stored("train")
        assert stored is not None
        # It may hold more rows after those that a fit reads.
        self.stored, self.hook_name = stored, hook_name
        self.seed: int = data.hparams["seed"]
        self.d_in = stored.widths[hook_name]
        self.blocks = [(row, min(row + SHARD_ROWS, self.n_rows)) for row in range(0, self.n_rows, SHARD_ROWS)]

    @property
    def n_kept(self) -> int:
        """The number of activations, including those that are not usable."""
        return int(self.kept.sum())

    def read(self, start: int, stop: int) -> Float[Tensor, "m d"]:
        """Return the usable activations of the rows ``start..stop``, in order."""
        return self.usable(start, stop).x

    def usable(self, start: int, stop: int) -> UsableActivations:
        """Return the usable activations of the rows ``start..stop``, in order, with their sources."""
        x = self.stored.read(start, stop).activations[self.hook_name]
        return kept_activations(self.rows, RowActivations(start, {self.hook_name: x})).usable(self.hook_name)

    def first(self, n: int) -> Float[Tensor, "m d"]:
        """Return the usable activations of the first rows, about n of them at most; at least one row."""
        n_rows = max(1, min(self.n_rows, n // self.rows.context_size))
        return torch.cat([self.read(start, min(stop, n_rows)) for start, stop in self.blocks if start < n_rows])

    def at(self, places: Int[Tensor, "m 2"]) -> Float[Tensor, "m d"]:
        """Return the activations at (row, position), usable or not, in the order of ``places``."""
        x = torch.empty(len(places), self.d_in)
        for start, stop in self.blocks:
            inside = ((places[:, 0] >= start) & (places[:, 0] < stop)).nonzero()[:, 0]
            if len(inside):
                row, position = (places[inside] - torch.tensor([start, self.rows.first_position])).T
                x[inside] = self.stored.read(start, stop).activations[self.hook_name][row, position]
        return x

    def sample(self, n: int = CALIBRATION) -> Float[Tensor, "m d"]:
        """Return the usable activations of rows drawn at random, as few as hold n activations.

        Of all training rows they are those of ``ActivationsDataModule.calibration_batch``, so that their mean is the
        bias of an ITDA. Raises InputError if none of them is usable.
        """
        drawn = draw_rows(self.kept, n, self.seed + 1)
        read = RowActivations(0, {self.hook_name: self.stored.read_at(drawn)[self.hook_name]})
        x = kept_activations(self.rows.select(drawn), read).usable(self.hook_name).x
        if not len(x):
            raise InputError(f"all {n} activations drawn at {self.hook_name} are zero or not finite: {NONE_USABLE}")
        return x


def shuffled_batches(
    rows: TrainingRows, batch_size: int, seed: int, buffer_bytes: int
) -> Iterator[Float[Tensor, "batch d"]]:
    """Yield full batches without end, every activation once per epoch; the same for the same arguments.

    Activations that fit into the buffer are read once and shuffled as a whole. Others are read again in every epoch,
    blocks of rows in random order, and shuffled within the blocks that the buffer holds, at least one. Raises
    InputError for batches that many epochs would not fill, and for a buffer that holds no block.
    """
    most = EPOCHS_IN_A_BATCH * rows.n_kept
    check_between(1, most, {"batch_size": batch_size}, f"there are {rows.n_kept:,} training activations")
    positions = rows.kept.shape[1] - rows.rows.first_position
    block_bytes = SHARD_ROWS * positions * rows.d_in * BYTES
    all_fit = rows.n_kept * rows.d_in * BYTES <= buffer_bytes
    blocks_in_buffer = len(rows.blocks) if all_fit else buffer_bytes // block_bytes
    if blocks_in_buffer < 1:
        raise InputError(
            f"a buffer of {buffer_bytes:,} bytes holds less than {SHARD_ROWS} rows of activations at {rows.hook_name}: "
            f"give at least {block_bytes:,}"
        )
    return _shuffled(rows, batch_size, torch.Generator().manual_seed(seed), blocks_in_buffer)


def _shuffled(
    rows: TrainingRows, batch_size: int, generator: torch.Generator, blocks_in_buffer: int
) -> Iterator[Tensor]:
    largest = blocks_in_buffer * SHARD_ROWS * rows.kept.shape[1]
    storage = torch.empty(min(rows.n_kept, largest), rows.d_in)
    buffer = rest = storage[:0]
    while True:
        order = torch.randperm(len(rows.blocks), generator=generator)
        for chosen in order.split(blocks_in_buffer):
            # If all blocks fit, the buffer still holds them after the first epoch.
            if not len(buffer) or len(chosen) < len(rows.blocks):
                buffer = _fill(storage, rows, chosen.tolist())
            shuffled = torch.randperm(len(buffer), generator=generator)
            missing = batch_size - len(rest)
            for part in (shuffled[:missing], *shuffled[missing:].split(batch_size)):
                rest = torch.cat([rest, buffer[part]])
                if len(rest) == batch_size:
                    yield rest
                    rest = storage[:0]


def _fill(storage: Float[Tensor, "room d"], rows: TrainingRows, blocks: list[int]) -> Float[Tensor, "m d"]:
    end = 0
    for block in blocks:
        x = rows.read(*rows.blocks[block])
        storage[end : end + len(x)] = x
        end += len(x)
    if not end:
        raise InputError(f"none of the {len(blocks)} blocks of rows read holds a usable activation at {rows.hook_name}")
    return storage[:end]
