"""Slabs: the hidden states of all rows on disk, in pieces that fit into memory, each with a checksum.

A *level* is a place in the residual stream: 0 for what enters layer 0, l for what leaves layer l - 1. A slab's file holds its
rows at one level, as plain numbers with a checksum at the end, and is named by its rows and its level. Which files are there
says how far the harvest came: levels that a hook point wants are kept, others go once the next is written.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import xxhash
from jaxtyping import Float
from torch import Tensor

from itda_lightning.activations.text.split import Split
from itda_lightning.errors import InputError
from itda_lightning.machine.atomic_files import remove_parts, write_file

CHECKSUM_BYTES = xxhash.xxh3_128().digest_size
PIECE = 2**24
# What is computed meanwhile waits for the rest only.
SYNCED_AT_A_TIME = 2**26


@dataclass(frozen=True)
class Slab:
    """Rows ``start..stop`` of the cache of one split."""

    of: Split
    start: int
    stop: int

    def batches(self, batches: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Those of the model's batches that lie in it."""
        return (batch for batch in batches if self.start <= batch[0] < self.stop)


def cut(of: Split, batches: list[tuple[int, int]], rows: int) -> list[Slab]:
    """Slabs of at most ``rows`` rows, each of whole batches (start, stop)."""
    slabs: list[Slab] = []
    for start, stop in batches:
        if slabs and stop - slabs[-1].start <= rows:
            slabs[-1] = Slab(of, slabs[-1].start, stop)
        else:
            slabs.append(Slab(of, start, stop))
    return slabs


class SlabFiles:
    """The files of all slabs in one directory.

    Args:
        directory: holds them and nothing else.
        wanted: the levels of the hook points, ascending.
        shape: (positions, d_in) of one row.
        dtype: of the computation.
    """

    def __init__(self, directory: Path, wanted: list[int], shape: tuple[int, int], dtype: torch.dtype) -> None:
        self.directory, self.wanted, self.shape, self.dtype = directory, wanted, shape, dtype
        self.row_bytes = shape[0] * shape[1] * dtype.itemsize
        self._checked: set[Path] = set()

    def level(self, slab: Slab) -> int | None:
        """The level that the slab has come to, from which it goes on; None where it has to be embedded.

        That is the highest whose file is there, so far as the files of all wanted levels below are there, too.
        """
        there = [level for level in range(self.wanted[-1] + 1) if self._path(slab, level).exists()]
        missing = [level for level in self.wanted if level not in there]
        reached = [level for level in there if not missing or level < missing[0]]
        return reached[-1] if reached else None

    def empty(self, rows: int) -> Float[Tensor, "rows context d"]:
        """Memory for the hidden states of so many rows."""
        return torch.empty((rows, *self.shape), dtype=self.dtype)

    def read(self, slab: Slab, level: int, hidden: Float[Tensor, "rows context d"]) -> None:
        """Fill ``hidden`` with the slab's hidden states at a level. Raises InputError where they are not what was written."""
        path = self._path(slab, level)
        with path.open("rb", buffering=0) as stream:
            checksum = _fill(stream.fileno(), _bytes_of(hidden), path)
            if os.read(stream.fileno(), CHECKSUM_BYTES + 1) != checksum:
                raise _damaged(path)

    def read_rows(self, slab: Slab, level: int, start: int, stop: int) -> Float[Tensor, "rows context d"]:
        """Some of the slab's rows; the whole file is checked before the first of them. Raises as ``read``."""
        path = self._path(slab, level)
        if path not in self._checked:
            self._check(path)
            self._checked.add(path)
        hidden = torch.empty((stop - start, *self.shape), dtype=self.dtype)
        with path.open("rb", buffering=0) as stream:
            os.lseek(stream.fileno(), (start - slab.start) * self.row_bytes, os.SEEK_SET)
            _fill(stream.fileno(), _bytes_of(hidden), path)
        return hidden

    def write(self, slab: Slab, level: int, parts: Iterable[Float[Tensor, "rows context d"]]) -> None:
        """Write the slab at a level and remove the level before where no hook point wants it.

        Args:
            slab: which rows.
            level: of their hidden states.
            parts: all of them in order; each is written before the next is asked for.

        Raises:
            InputError: the disk is full; what was written before is still there.
        """

        def write(path: Path) -> None:
            digest, cached = xxhash.xxh3_128(), 0
            with path.open("wb", buffering=0) as stream:
                for part in parts:
                    view = _bytes_of(part)
                    for first in range(0, len(view), PIECE):
                        piece = view[first : first + PIECE]
                        digest.update(piece)
                        cached += len(piece)
                        while len(piece):
                            piece = piece[stream.write(piece) :]
                        if cached >= SYNCED_AT_A_TIME:
                            os.fdatasync(stream.fileno())
                            cached = 0
                stream.write(digest.digest())

        write_file(self._path(slab, level), write)
        if level - 1 not in self.wanted:
            self._path(slab, level - 1).unlink(missing_ok=True)

    def remove_stale(self, slabs: list[Slab]) -> None:
        """Remove what a process that was killed has left: parts of files, and levels that are no longer needed."""
        remove_parts(self.directory)
        for slab in slabs:
            for level in range(self.level(slab) or 0):
                if level not in self.wanted:
                    self._path(slab, level).unlink(missing_ok=True)

    def _path(self, slab: Slab, level: int) -> Path:
        return self.directory / f"{slab.of}-rows-{slab.start:08d}-{slab.stop:08d}.level-{level:04d}"

    def _check(self, path: Path) -> None:
        digest = xxhash.xxh3_128()
        with path.open("rb", buffering=0) as stream:
            left = path.stat().st_size - CHECKSUM_BYTES
            while left > 0 and (piece := stream.read(min(PIECE, left))):
                digest.update(piece)
                left -= len(piece)
            if stream.read(CHECKSUM_BYTES) != digest.digest():
                raise _damaged(path)


def _bytes_of(hidden: Tensor) -> memoryview:
    return hidden.reshape(-1).view(torch.uint8).numpy().data


def _fill(file: int, view: memoryview, path: Path) -> bytes:
    """Fill memory from a file; returns the checksum of what was read."""
    digest, done = xxhash.xxh3_128(), 0
    while done < len(view):
        piece = view[done : done + PIECE]
        count = os.readv(file, [piece])
        if not count:
            raise _damaged(path)
        digest.update(piece[:count])
        done += count
    return digest.digest()


def _damaged(path: Path) -> InputError:
    return InputError(
        f"the hidden states in {path} are truncated or damaged: remove this file and run again; only its rows are "
        "computed again"
    )
