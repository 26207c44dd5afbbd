"""The streamed backend: a model on disk harvested layer by layer, all rows through one layer before the next is read.

Every weight is read once whatever the number of tokens. Hidden states lie on disk in slabs (``slabs.py``), so that memory
holds two layers of weights (one computes, the next is being read) and one slab, and a run that was killed goes on with the
layer and the slab that it was at.
"""

import json
import logging
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import get_args

import xxhash
from torch import Tensor
from tqdm.auto import tqdm

from itda_lightning.activations.cache import SHARD_ROWS, ActivationCache, cache_bytes
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.harvest import RowActivations
from itda_lightning.activations.harvest_plan import (
    CPU,
    PROCESS_BYTES,
    HarvestPlan,
    Limits,
    batch_bytes,
    directory_bytes,
    in_units,
)
from itda_lightning.activations.rows import Rows
from itda_lightning.activations.slabs import Slab, SlabFiles, cut
from itda_lightning.activations.split import Split
from itda_lightning.activations.streamed_decoder import StreamedDecoder
from itda_lightning.atomic_files import explained, remove_parts, write_json
from itda_lightning.errors import InputError

logger = logging.getLogger(__name__)

SPLITS: tuple[Split, ...] = get_args(Split)
SLAB_ROWS = "slabs.json"


class StreamedBackend:
    """Harvests what a data module asks for, from weights that stay on disk.

    Args:
        data: what to harvest; its language model is not loaded.
        limits: how much memory may be taken.
        spill: where hidden states are kept meanwhile; beside the caches if None.

    Raises:
        InputError: weights that are missing, not whole or of an unknown architecture, or a hook point that is not of the
            residual stream between layers. Only headers were read then.
    """

    def __init__(self, data: ActivationsDataModule, limits: Limits, spill: Path | None) -> None:
        self.data, self.limits = data, limits
        self.root = Path(data.hparams["cache_dir"]).expanduser()
        self.spill = spill.expanduser() if spill is not None else self.root
        self.decoder = StreamedDecoder(data.model_name)
        self.levels = {hook: self.decoder.level(hook) for hook in data.hook_names}
        self.wanted = sorted(set(self.levels.values()))
        self.batch_rows: int = data.hparams["model_batch_size"]
        data.check_context(self.decoder.longest_context)

    def plan(self) -> HarvestPlan:
        """What all of the harvest takes. Raises InputError where a single batch does not fit into the memory."""
        decoder, n_layers = self.decoder, self.wanted[-1]
        n_rows, row_bytes = self._n_rows, self._row_bytes
        names = decoder.outer_weights + [name for layer in decoder.layer_weights[:n_layers] for name in layer]
        tokens = n_rows * self.data.hparams["context_size"]
        slab = self.slab_rows * row_bytes
        shard = SHARD_ROWS * row_bytes * len(self.levels)  # of the cache, while it is written
        width, stored = len(self.levels) * decoder.width, self.data.hparams["cache_dtype"]
        return HarvestPlan(
            tokens=tokens,
            weights=next(iter(decoder.files.tensors.values())).file,
            read=decoder.files.size_bytes(names),
            cache=sum(cache_bytes(part, width, stored) for part in map(self.data._cached_rows, SPLITS)),
            # While a slab is written its last level is still there.
            spill=n_rows * row_bytes * (len(self.wanted) + (n_layers > 0)) + slab,
            cpu=max(self.memory_for(self.slab_rows), PROCESS_BYTES + 2 * shard),
            gpu=0 if self._on_cpu else max(2 * decoder.layer_bytes, decoder.outer_bytes) + self._batch,
            flops=2 * tokens * sum(decoder.parameters[:n_layers]),
            spill_traffic=2 * n_rows * row_bytes * (n_layers + 1),
            width=decoder.width,
        )

    def memory_for(self, slab_rows: int) -> int:
        """Bytes of CPU memory for slabs of so many rows: the process, two layers of weights, one batch, one slab."""
        return PROCESS_BYTES + self._weights_on_cpu + (self._batch if self._on_cpu else 0) + slab_rows * self._row_bytes

    @cached_property
    def slab_rows(self) -> int:
        """Rows in a slab: what the memory leaves, in whole batches, of all rows at most.

        Raises:
            InputError: too little memory for two layers of weights and one batch.
        """
        allowed, least = self.limits.of(CPU), self.memory_for(self.batch_rows)
        if allowed < least:
            raise InputError(
                f"the harvest needs {in_units(least)} of memory (this process {in_units(PROCESS_BYTES)}, two layers of "
                f"weights {in_units(self._weights_on_cpu)}, the rest for a batch) but may take {in_units(allowed)}: raise "
                "memory, or lower data.model_batch_size"
            )
        batches = 1 + (allowed - least) // (self.batch_rows * self._row_bytes)
        return min(batches * self.batch_rows, self._n_rows)

    def fill(self) -> int:
        """Harvest what is not in the caches yet; returns the number of tokens that were written to them.

        Raises:
            InputError: the disk is full, or a file is damaged; what was written before stays, and the same call goes on.
        """
        caches = {split: self._cache(split) for split in SPLITS}
        key = xxhash.xxh3_64_hexdigest("".join(cache.path.name for cache in caches.values()).encode())
        directory = self.spill / f"streamed-{key}-{self.batch_rows}"
        there = sum(map(directory_bytes, [directory, *(cache.path for cache in caches.values())]))
        self.plan().check_disk(self.root, self.spill, reusable=there)
        missing = {split: cache for split, cache in caches.items() if not cache.complete}
        written = _Run(self, directory, missing).fill() if missing else 0
        shutil.rmtree(directory, ignore_errors=True)
        return written

    def _cache(self, split: Split) -> ActivationCache:
        cache = self.data.cache(split)
        assert cache is not None
        return cache

    @property
    def _on_cpu(self) -> bool:
        return self.decoder.device.type == "cpu"

    @property
    def _weights_on_cpu(self) -> int:
        """The layer that computes and the next, or what runs before the layers, as stored and as computed with."""
        decoder = self.decoder
        stored = max(map(decoder.files.size_bytes, decoder.layer_weights))
        outer = decoder.files.size_bytes(decoder.outer_weights)
        if not self._on_cpu:
            return max(2 * stored, outer)
        return max(2 * max(decoder.layer_bytes, stored), outer + decoder.outer_bytes)

    @property
    def _batch(self) -> int:
        dtype, context = self.data.model_name.torch_dtype(), self.data.hparams["context_size"]
        return batch_bytes(self.decoder.config, self.batch_rows, context, dtype.itemsize)

    @property
    def _n_rows(self) -> int:
        return sum(len(self.data._cached_rows(split)) for split in SPLITS)

    @property
    def _row_bytes(self) -> int:
        return self.data.hparams["context_size"] * self.decoder.width * self.data.model_name.torch_dtype().itemsize


class _Run:
    """One run of a streamed harvest into the caches that are missing."""

    def __init__(self, backend: StreamedBackend, directory: Path, caches: dict[Split, ActivationCache]) -> None:
        self.decoder, self.levels, self.wanted = backend.decoder, backend.levels, backend.wanted
        self.caches = caches
        self.batches = {split: cache.batches(backend.batch_rows) for split, cache in caches.items()}
        rows = next(iter(caches.values())).rows
        shape, dtype = (rows.context_size, self.decoder.width), backend.data.model_name.torch_dtype()
        self.files = SlabFiles(directory, self.wanted, shape, dtype)
        slab_rows = _slab_rows(directory, backend.slab_rows)
        self.slabs = [slab for split, batches in self.batches.items() for slab in cut(split, batches, slab_rows)]
        self.files.remove_stale(self.slabs)
        self.reached = {slab: self.files.level(slab) for slab in self.slabs}
        # All hidden states stay in memory where they fit; they are on disk all the same, for a run that is killed.
        self.all_in_memory = sum(slab.stop - slab.start for slab in self.slabs) <= slab_rows
        self.in_memory: dict[Slab, Tensor] = {}
        model = xxhash.xxh3_64_hexdigest(next(iter(caches.values())).settings["model"]["fingerprint"].encode())
        remove_parts(backend.root)
        self.decoder.files.check_by(backend.root / f"weights-{model}.json")

    def fill(self) -> int:
        """Bring all slabs to the last level that a hook point wants, then write the caches."""
        if any(level != self.wanted[-1] for level in self.reached.values()):
            self._embed()
            self._stream()
        self.in_memory.clear()
        widths = dict.fromkeys(self.levels, self.decoder.width)
        return sum(cache.fill_from(widths, partial(self._read, split)) for split, cache in self.caches.items())

    def _embed(self) -> None:
        with self.decoder.outer():
            for slab in tqdm(self.slabs, desc="Embeddings", unit=" slabs"):
                rows, hidden = self._rows(slab), self.files.empty(slab)
                for start, stop in slab.batches(self.batches[slab.of]):
                    self.decoder.prepare(rows.tokens[start:stop])
                    if self.reached[slab] is None:
                        hidden[start - slab.start : stop - slab.start] = self.decoder.embed(rows.tokens[start:stop])
                if self.reached[slab] is None:
                    self._write(slab, 0, hidden)

    def _stream(self) -> None:
        first, last = min(level for level in self.reached.values() if level is not None), self.wanted[-1]
        if first:
            logger.info("going on with layer %d of %d", first, last)
        decoder = self.decoder
        with (
            ThreadPoolExecutor(1) as reader,
            tqdm(total=(last - first) * len(self.slabs), desc="Layers", unit=" slabs") as bar,
        ):
            weights = decoder.files.read(decoder.layer_weights[first]) if first < last else {}
            for index in range(first, last):
                with decoder.layer(index, weights):
                    # Read only now, when what the layer was made of is gone: two layers are in memory, not three.
                    coming = reader.submit(
                        decoder.files.read, decoder.layer_weights[index + 1] if index + 1 < last else []
                    )
                    for slab in self.slabs:
                        if self.reached[slab] == index:
                            self._forward(slab, index)
                        bar.update()
                weights = coming.result()

    def _forward(self, slab: Slab, index: int) -> None:
        hidden = self.in_memory[slab] if slab in self.in_memory else self.files.read(slab, index)
        for start, stop in slab.batches(self.batches[slab.of]):
            part = slice(start - slab.start, stop - slab.start)
            hidden[part] = self.decoder.forward_layer(index, hidden[part])
        self._write(slab, index + 1, hidden)

    def _write(self, slab: Slab, level: int, hidden: Tensor) -> None:
        self.files.write(slab, level, hidden)
        self.reached[slab] = level
        if self.all_in_memory:
            self.in_memory[slab] = hidden

    def _rows(self, slab: Slab) -> Rows:
        return self.caches[slab.of].rows

    def _read(self, split: Split, start: int, stop: int) -> Iterator[RowActivations]:
        """The activations of some rows, in the batches of the language model."""
        first = self.caches[split].rows.first_position
        for batch in self.batches[split]:
            if not start <= batch[0] < stop:
                continue
            slab = next(slab for slab in self.slabs if slab.of == split and slab.start <= batch[0] < slab.stop)
            read = {level: self.files.read_rows(slab, level, *batch)[:, first:].contiguous() for level in self.wanted}
            yield RowActivations(batch[0], {hook: read[level] for hook, level in self.levels.items()})


def _slab_rows(directory: Path, wanted: int) -> int:
    """Rows in a slab: as a run began that was killed, else as wanted now.

    Raises:
        InputError: it began with more memory than there is now.
    """
    path = directory / SLAB_ROWS
    if not path.exists():
        with explained(directory, "writing into"):
            directory.mkdir(parents=True, exist_ok=True)
        write_json(path, {"rows": wanted})
        return wanted
    begun = int(json.loads(path.read_text(encoding="utf-8"))["rows"])
    if begun > wanted:
        raise InputError(
            f"the harvest in {directory} was begun with slabs of {begun} rows, of which the memory holds {wanted} now: raise "
            "memory, or remove the directory to begin anew"
        )
    return begun
