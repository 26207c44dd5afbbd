"""The disk cache of activations, in SAELens's cached-activations format with the sources beside it.

A cache is a directory that ``datasets.load_from_disk`` and SAELens's ``use_cached_activations`` read: Arrow files with
one column per hook point (``context_size`` is the number of positions stored per row) and ``token_ids`` (int32). Arrow
has no bfloat16: such a cache holds the bits as int16 in columns named ``<hook name>.bfloat16``, so that SAELens reports
a missing column instead of reading nonsense. ``cache.json`` holds the identity of the activations; its hash names the
directory. Some hook points of a finished cache are read as a cache of their own.

Files are written one shard at a time under their final names, ``state.json`` last: a harvest that was killed resumes
after its last whole shard, and a directory without ``state.json`` is never taken for a cache. ``checksums.xxh128`` has
one line per finished file, by which whatever is read is verified, once.
"""

import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import xxhash
from humanize import naturalsize
from jaxtyping import Float, Int
from safetensors.torch import save_file
from tqdm.auto import tqdm

from itda_lightning.activations.cache_files import SETTINGS, STATE, check_facts, covered_by, with_more_hook_points
from itda_lightning.activations.harvesting import RowActivations, StoredActivations
from itda_lightning.activations.model_and_rows import ActivationIdentity
from itda_lightning.activations.text.rows import PARTS, Rows
from itda_lightning.errors import InputError
from itda_lightning.machine.atomic_files import explained, write_file, write_json
from itda_lightning.machine.checks import check_choice
from itda_lightning.machine.checksums import (
    CHECKSUMS,
    add_checksums,
    read_checksums,
    whole_checksums,
    write_checksums,
)
from itda_lightning.machine.digests import file_checksum, reason, warn_unsigned
from itda_lightning.machine.memory import TOO_LITTLE_MEMORY, is_out_of_memory
from itda_lightning.machine.part_files import remove_parts
from itda_lightning.machine.paths import user_path
from itda_lightning.machine.processes import gather_json, n_ranks, rank, wait_for_all
from itda_lightning.machine.progress import bars_are_hidden

logger = logging.getLogger(__name__)

SHARD_ROWS = 64
BITS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

# Yields the activations of the rows start..stop, in the language model's batches.
ReadRows = Callable[[int, int], Iterable[RowActivations]]


class ActivationCache(StoredActivations):
    """The activations of all rows at some hook points, on disk, in a directory below ``root``.

    Raises InputError for a dtype that is not stored.
    """

    def __init__(self, root: Path, rows: Rows, identity: ActivationIdentity) -> None:
        check_choice(BITS, {"cache_dtype": identity.cache_dtype})
        self.rows, self.hook_names, self.dtype = rows, identity.hook_names, identity.cache_dtype
        self.settings: dict[str, Any] = {
            "version": 1,
            "model": {"fingerprint": identity.model, "loader": identity.loader, "dtype": identity.model_dtype},
            "hook_names": identity.hook_names,
            "rows": identity.rows,
            "dataset": identity.dataset,
            "first_position": rows.first_position,
            "dtype": identity.cache_dtype,
        }
        key = xxhash.xxh3_64_hexdigest(json.dumps(self.settings, sort_keys=True).encode())
        self.path = user_path(root) / f"activations-{key}"
        if not self.complete:
            self.path = with_more_hook_points(self.path.parent, self.settings) or self.path
        n_shards = -(-len(rows) // SHARD_ROWS)
        self._paths = [self.path / f"data-{shard:05d}-of-{n_shards:05d}.arrow" for shard in range(n_shards)]
        self._checked: set[int] = set()

    @property
    def complete(self) -> bool:
        """True if ``path`` holds a finished harvest."""
        return (self.path / STATE).exists()

    @property
    def widths(self) -> dict[str, int]:
        """The width d_in of every hook point of a complete cache. Raises InputError if it cannot be read."""
        features = self._dataset.features
        return {hook: features[self._column(hook)].shape[1] for hook in self.hook_names}

    def batches(self, model_batch_size: int) -> list[tuple[int, int]]:
        """Return (start, stop) of the rows in each forward pass; no batch lies in two files."""
        return [
            (row, min(row + model_batch_size, rows.stop))
            for rows in map(self._rows_of, range(len(self._paths)))
            for row in range(rows.start, rows.stop, model_batch_size)
        ]

    def fill(self, widths: dict[str, int], read: ReadRows) -> int:
        """Write what is missing, with a progress bar, and return its number of tokens.

        Several processes write files in turn, each reading its own, and the first process adds their checksums. Too
        little space raises InputError before anything is read.
        """
        features, checksums, paths = self._features(widths), read_checksums(self.path), self._paths
        finished = {path for path in paths if path.name in checksums and path.exists()}
        missing = [shard for shard, path in enumerate(paths) if path not in finished]
        wait_for_all()  # before the first process changes the files that the others look at
        if finished:
            logger.info("resuming the cache %s: %d of %d files are finished", self.path, len(finished), len(paths))
        with explained(self.path, "writing"):
            self.path.mkdir(parents=True, exist_ok=True)
            if rank() == 0:
                remove_parts(self.path)
            free = shutil.disk_usage(self.path).free
        if checksums and rank() == 0:
            write_checksums(self.path, {path.name: checksums[path.name] for path in sorted(finished)})
        needed = cache_bytes(self.rows, sum(widths.values()), self.dtype) * len(missing) // max(len(paths), 1)
        if needed > free:
            raise InputError(
                f"the activation cache needs {naturalsize(needed)} but {self.path} has {naturalsize(free)} free: lower "
                "training_tokens, set cache_dtype=bfloat16, or choose another cache_dir"
            )
        if missing and rank() == 0:
            logger.info("the cache takes about %s; removing its directory frees them", naturalsize(needed))
        wait_for_all()
        total = sum(len(self._rows_of(shard)) for shard in missing) * self.rows.context_size
        bar = tqdm(total=total, unit=" tokens", unit_scale=True, desc="Harvest", disable=bars_are_hidden())
        with bar, ThreadPoolExecutor(1) as writer:  # one file is written while the next is computed
            written: tuple[list[int], Future[str] | None] = [], None
            try:
                for turn in range(0, len(missing), n_ranks()):
                    together = missing[turn : turn + n_ranks()]
                    mine = together[rank()] if rank() < len(together) else None
                    parts = [] if mine is None else list(self._counted(read, self._rows_of(mine), bar))
                    checksums |= self._sign(*written, bar)
                    writing = None if mine is None else writer.submit(self._write_shard, mine, parts, features)
                    written = together, writing
            finally:  # what is written stays
                checksums |= self._sign(*written, bar)
        if rank() == 0:
            self._finish(features, {path.name: checksums[path.name] for path in paths})
        wait_for_all()
        return total

    def _rows_of(self, shard: int) -> range:
        return range(shard * SHARD_ROWS, min((shard + 1) * SHARD_ROWS, len(self.rows)))

    def _counted(self, read: ReadRows, rows: range, bar: tqdm) -> Iterator[RowActivations]:
        for part in read(rows.start, rows.stop):
            bar.update(len(next(iter(part.activations.values()))) * self.rows.context_size)
            yield part

    def _sign(self, shards: list[int], mine: "Future[str] | None", bar: tqdm) -> dict[str, str]:
        """Wait for the files of all processes; write and return the checksums."""
        gathered = gather_json(mine and mine.result())
        checksums = {self._paths[shard].name: gathered[other] for other, shard in enumerate(shards)}
        others = [len(self._rows_of(shard)) for other, shard in enumerate(shards) if other != rank()]
        bar.update(sum(others) * self.rows.context_size)
        if rank() == 0 and checksums:
            add_checksums(self.path, checksums)
        return checksums

    def read(self, start_row: int, stop_row: int) -> RowActivations:
        """Return the float32 activations of some rows. Raises InputError for truncated, damaged or foreign files.

        The checksum of every file of which anything is read is compared, once.
        """
        return RowActivations(start_row, self._read(slice(start_row, stop_row)))

    def read_at(self, rows: Int[torch.Tensor, " m"]) -> dict[str, Float[torch.Tensor, "m positions d"]]:
        """Return the float32 activations of rows anywhere, in that order, by hook point. Raises as ``read``."""
        return self._read(rows.numpy())

    def _read(self, rows: slice | np.ndarray) -> dict[str, torch.Tensor]:
        read = range(rows.start, rows.stop) if isinstance(rows, slice) else rows
        shards = sorted({int(row) // SHARD_ROWS for row in read} - self._checked)
        dataset = self._dataset
        try:
            table = dataset[rows]
        except self._arrow.UNREADABLE as error:
            self._check(shards)
            raise self._unreadable(error) from error
        if not np.array_equal(table["token_ids"], self._tokens(rows)):
            raise InputError(f"the activation cache {self.path} holds other tokens: remove it and run again")
        self._check(shards)
        return {hook: self._decode(table[self._column(hook)]) for hook in self.hook_names}

    def _check(self, shards: Iterable[int]) -> None:
        """Compare the checksums of files of which something was read."""
        known = self._checksums
        for shard in shards if known else ():
            path = self._paths[shard]
            if file_checksum(path) != known[path.name]:
                raise InputError(
                    f"{path} is damaged (its checksum is not that in {CHECKSUMS}): remove it and {STATE} beside it and "
                    "run again; only its rows are harvested again"
                )
            self._checked.add(shard)

    @cached_property
    def _checksums(self) -> dict[str, str]:
        return whole_checksums(self.path, [path.name for path in self._paths])

    @cached_property
    def _dataset(self) -> Any:
        try:
            if check_facts(self.path) == "none":
                warn_unsigned(self.path / STATE)
            opened = self._arrow.open_table(self.path)
            columns = ["token_ids", *map(self._column, self.hook_names)]
            if len(opened) != len(self.rows) or not set(opened.column_names) >= set(columns):
                raise ValueError(f"{len(opened)} rows of {sorted(opened.column_names)}")
            return opened.select_columns(columns)
        except InputError:
            raise
        except self._arrow.UNREADABLE as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> InputError:
        if is_out_of_memory(error):
            return InputError(f"reading the activation cache {self.path} {TOO_LITTLE_MEMORY} ({reason(error)})")
        return InputError(
            f"the activation cache {self.path} is truncated or foreign ({reason(error)}): remove it and run again"
        )

    def _tokens(self, rows: slice | np.ndarray) -> np.ndarray:
        return self.rows.tokens.numpy()[rows, self.rows.first_position :].astype(np.int32)

    def _column(self, hook: str) -> str:
        return f"{hook}.bfloat16" if self.dtype == "bfloat16" else hook

    @cached_property
    def _arrow(self) -> ModuleType:
        # It imports `datasets`, for a second that whoever names a cache need not wait.
        from itda_lightning.activations import arrow_files

        return arrow_files

    def _features(self, widths: dict[str, int]) -> Any:
        positions = self.rows.context_size - self.rows.first_position
        stored = "int16" if self.dtype == "bfloat16" else self.dtype
        return self._arrow.features_of({self._column(hook): d for hook, d in widths.items()}, positions, stored)

    def _encode(self, hook: str, values: torch.Tensor) -> np.ndarray:
        stored = values.to(BITS[self.dtype])
        overflow = torch.isinf(stored) & torch.isfinite(values)
        if overflow.any():
            raise InputError(
                f"activations at {hook} reach {float(values[overflow].abs().max()):.6g}, more than {self.dtype} holds: "
                "use cache_dtype=bfloat16 or float32"
            )
        return (stored.view(torch.int16) if self.dtype == "bfloat16" else stored).numpy()

    def _decode(self, values: np.ndarray) -> torch.Tensor:
        if self.dtype == "bfloat16":
            return torch.from_numpy(values.astype(np.int16)).view(torch.bfloat16).float()
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))

    def _write_shard(self, shard: int, parts: list[RowActivations], features: Any) -> str:
        """Write one file and return its checksum."""
        path, columns = self._paths[shard], map(self._columns_of, parts)
        write_file(path, lambda temporary: self._arrow.write_table(temporary, features, columns))
        return file_checksum(path)

    def _columns_of(self, part: RowActivations) -> dict[str, np.ndarray]:
        columns = {self._column(hook): self._encode(hook, values) for hook, values in part.activations.items()}
        rows = len(next(iter(columns.values())))
        return columns | {"token_ids": self._tokens(slice(part.first_row, part.first_row + rows))}

    def _finish(self, features: Any, checksums: dict[str, str]) -> None:
        """Write what tells what the activations are, and last what makes it a cache, with a digest of all of it."""
        sources = {name: getattr(self.rows, name).contiguous() for name in PARTS}
        write_file(self.path / "sources.safetensors", lambda path: save_file(sources, path))
        write_json(self.path / SETTINGS, self.settings)
        write_json(self.path / "dataset_info.json", {"features": features.to_dict()})
        content: dict[str, Any] = {
            "_data_files": [{"filename": path.name} for path in self._paths],
            "_fingerprint": self.path.name.removeprefix("activations-"),
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
        }
        write_checksums(self.path, checksums)
        write_json(self.path / STATE, content, covered_by(self.path))


def cache_bytes(rows: Rows, width: int, dtype: str) -> int:
    """Estimate the bytes of a cache of these rows; ``width`` is the sum of d_in over hook points."""
    return len(rows) * (rows.context_size - rows.first_position) * (4 + width * BITS[dtype].itemsize)
