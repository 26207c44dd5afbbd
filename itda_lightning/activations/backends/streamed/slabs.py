"""Slabs: the hidden states of all rows on disk, in pieces that fit into memory, each with a checksum.

A *level* is a place in the residual stream: 0 is the input of layer 0, l the output of layer l - 1. A slab's file holds
its rows at one level, as plain numbers with a checksum at the end, and is named by its rows and level. The files on
disk tell how far a harvest has come: levels of hook points stay, others are removed once the next level is written.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch
import xxhash
from filelock import FileLock, Timeout
from jaxtyping import Float
from torch import Tensor

from itda_lightning.activations.backends.streamed.weight_files import fill
from itda_lightning.activations.text.split import Split
from itda_lightning.errors import InputError
from itda_lightning.machine.atomic_files import explained, write_file, write_json
from itda_lightning.machine.checks import check_at_least
from itda_lightning.machine.digests import read_signed_json
from itda_lightning.machine.part_files import remove_parts
from itda_lightning.machine.schema import check_schema

CHECKSUM_BYTES = xxhash.xxh3_128().digest_size
PIECE = 2**24
# Written bytes are forced to disk in these portions, so that little is left to wait for at the end.
SYNCED_AT_A_TIME = 2**26


@dataclass(frozen=True)
class Slab:
    """Rows ``start..stop`` of the cache of one split."""

    of: Split
    start: int
    stop: int

    def batches(self, batches: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Yield the batches (start, stop) that lie in the slab."""
        return (batch for batch in batches if self.start <= batch[0] < self.stop)


def cut(of: Split, batches: list[tuple[int, int]], rows: int) -> list[Slab]:
    """Cut batches (start, stop) into slabs of at most ``rows`` rows and at least one batch."""
    slabs: list[Slab] = []
    for start, stop in batches:
        if slabs and stop - slabs[-1].start <= rows:
            slabs[-1] = Slab(of, slabs[-1].start, stop)
        else:
            slabs.append(Slab(of, start, stop))
    return slabs


class SlabFiles:
    """The files of all slabs, alone in a directory.

    ``needed`` are the levels of the hook points, ascending; ``shape`` is (positions, d_in) of one row.
    """

    def __init__(self, directory: Path, needed: list[int], shape: tuple[int, int], dtype: torch.dtype) -> None:
        self.directory, self.needed, self.shape, self.dtype = directory, needed, shape, dtype
        self._checked: set[Path] = set()

    def level(self, slab: Slab) -> int | None:
        """Return the level from which a slab goes on; None if it has yet to be embedded.

        It is the highest level on disk, provided that all needed levels below are on disk, too.
        """
        on_disk = [level for level in range(self.needed[-1] + 1) if self._path(slab, level).exists()]
        missing = next((level for level in self.needed if level not in on_disk), self.needed[-1] + 1)
        return max((level for level in on_disk if level < missing), default=None)

    def empty(self, rows: int) -> Float[Tensor, "rows context d"]:
        """Return uninitialised memory for the hidden states of a number of rows."""
        return torch.empty((rows, *self.shape), dtype=self.dtype)

    def read(self, slab: Slab, level: int, hidden: Float[Tensor, "rows context d"]) -> None:
        """Fill ``hidden`` with the slab's hidden states at a level. Raises InputError for a damaged file."""
        path = self._path(slab, level)
        with path.open("rb", buffering=0) as stream:
            checksum = fill(stream, _bytes_of(hidden))
            if stream.read(CHECKSUM_BYTES + 1) != checksum:
                raise _damaged(path)

    def read_rows(self, slab: Slab, level: int, start: int, stop: int) -> Float[Tensor, "rows context d"]:
        """Read some of the slab's rows, checking the whole file before the first read. Raises as ``read``."""
        path = self._path(slab, level)
        if path not in self._checked:
            self._check(path)
            self._checked.add(path)
        hidden = self.empty(stop - start)
        with path.open("rb", buffering=0) as stream:
            stream.seek((start - slab.start) * hidden[0].nbytes)
            if fill(stream, _bytes_of(hidden)) is None:
                raise _damaged(path)
        return hidden

    def write(self, slab: Slab, level: int, parts: Iterable[Float[Tensor, "rows context d"]]) -> None:
        """Write the slab at a level, and remove the level before unless a hook point needs it.

        Each part is written before the next is taken. Raises InputError if the disk is full; earlier files stay.
        """

        def write(path: Path) -> None:
            digest, cached = xxhash.xxh3_128(), 0
            with path.open("wb", buffering=0) as stream:
                for part in parts:
                    view = _bytes_of(part).numpy().data
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
        if level - 1 not in self.needed:
            self._path(slab, level - 1).unlink(missing_ok=True)

    def remove_stale(self, slabs: list[Slab]) -> None:
        """Remove what a killed process left: parts of files, and levels that are no longer needed."""
        remove_parts(self.directory)
        for slab in slabs:
            for level in range(self.level(slab) or 0):
                if level not in self.needed:
                    self._path(slab, level).unlink(missing_ok=True)

    def _path(self, slab: Slab, level: int) -> Path:
        return self.directory / f"{slab.of}-rows-{slab.start:08d}-{slab.stop:08d}.level-{level:04d}"

    def _check(self, path: Path) -> None:
        digest, left = xxhash.xxh3_128(), path.stat().st_size - CHECKSUM_BYTES
        with path.open("rb", buffering=0) as stream:
            while left > 0 and (piece := stream.read(min(PIECE, left))):
                digest.update(piece)
                left -= len(piece)
            if stream.read(CHECKSUM_BYTES) != digest.digest():
                raise _damaged(path)


def _bytes_of(hidden: Tensor) -> Tensor:
    return hidden.reshape(-1).view(torch.uint8)


def _damaged(path: Path) -> InputError:
    return InputError(
        f"the hidden states in {path} are truncated or damaged: remove this file and run again; only its rows are "
        "computed again"
    )


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep other harvests out of the directory within this block; a killed process leaves no lock."""
    with explained(directory, "writing into"):
        directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(directory / "lock", timeout=0)
    try:
        with lock:
            yield
    except Timeout as error:
        raise InputError(
            f"another process is filling the same caches, with its hidden states in {directory}: wait until it is done"
        ) from error


class Rows(TypedDict):
    """Types of what stands in slabs.json."""

    rows: int


def slab_rows(directory: Path, rows: int) -> int:
    """Return the rows per slab with which a killed run began, else ``rows``. Raises InputError if those are too few."""
    path = directory / "slabs.json"
    if not path.exists():
        write_json(path, {"rows": rows}, ())
        return rows
    remedy = f"remove {directory} to start again"
    first_rows: int = check_schema(read_signed_json(path, remedy), Rows, str(path), remedy)["rows"]
    check_at_least(1, {f"rows in {path}": first_rows}, remedy)
    if first_rows > rows:
        raise InputError(
            f"the harvest in {directory} began with slabs of {first_rows} rows, of which the memory holds {rows} now: "
            "raise memory, or remove the directory to start again"
        )
    return first_rows
