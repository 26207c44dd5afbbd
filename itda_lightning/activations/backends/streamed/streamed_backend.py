"""The streamed backend: harvest from a model on disk, all rows through one layer before the next layer is read.

Every weight is read once, whatever the number of tokens. Hidden states lie on disk in slabs (``slabs.py``): memory
holds two layers of weights and two slabs (one is computed, the next is read), and a killed run resumes at its layer and
slab.
"""

import logging
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path

import torch
import xxhash
from torch import Tensor
from tqdm.auto import tqdm

from itda_lightning.activations.backends.harvest_plan import (
    CPU,
    PROCESS_BYTES,
    HarvestPlan,
    HarvestSettings,
    batch_bytes,
    directory_bytes,
    in_units,
)
from itda_lightning.activations.backends.streamed.slab_pipeline import IN_MEMORY, SlabPipeline
from itda_lightning.activations.backends.streamed.slabs import Slab, SlabFiles, cut, locked, slab_rows
from itda_lightning.activations.backends.streamed.streamed_decoder import StreamedDecoder
from itda_lightning.activations.cache import SHARD_ROWS, ActivationCache
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.harvesting import RowActivations, check_tokens
from itda_lightning.activations.models.trial_run import n_embeddings
from itda_lightning.activations.text.split import SPLITS, Split
from itda_lightning.errors import InputError
from itda_lightning.machine.part_files import remove_parts

logger = logging.getLogger(__name__)

# Larger slabs are read and written no faster, and a killed run loses more.
LARGEST_SLAB = 2**29


class StreamedBackend:
    """Harvests the activations of a DataModule, whose language model is not loaded, from weights that stay on disk.

    For weights or hook points that it cannot stream it raises InputError, having read only the headers of files.
    """

    def __init__(self, data: ActivationsDataModule, settings: HarvestSettings) -> None:
        self.data, self.settings = data, settings
        self.root, self.spill = settings.directories(data)
        self.decoder = decoder = StreamedDecoder(data.model_name)
        self.levels = decoder.levels(data.read_points)
        self.needed_levels = sorted(set(self.levels.values()))
        self.batch_rows: int = data.hparams["model_batch_size"]
        data.check_context(decoder.longest_context)
        for split in SPLITS:
            check_tokens(data.cached_rows(split), n_embeddings(decoder.model), data.model_name.name)

        context, itemsize = data.hparams["context_size"], data.model_name.torch_dtype().itemsize
        self._n_rows = sum(len(data.cached_rows(split)) for split in SPLITS)
        self._row_bytes = context * decoder.width * itemsize
        # The current and the next layer, or the embeddings, as stored and as computed with.
        layer = max(map(decoder.files.size_bytes, decoder.layer_weights))
        outer = decoder.files.size_bytes(decoder.outer_weights)
        batch = batch_bytes(decoder.config, self.batch_rows, context, itemsize) + decoder.working_bytes
        if decoder.device.type == "cpu":
            self._weights_on_cpu = max(2 * max(decoder.layer_bytes, layer), outer + decoder.outer_bytes)
            self._memory_without_slabs, self._gpu = PROCESS_BYTES + self._weights_on_cpu + batch, 0
        else:
            self._weights_on_cpu = max(2 * layer, outer)
            self._memory_without_slabs = PROCESS_BYTES + self._weights_on_cpu
            self._gpu = max(2 * decoder.layer_bytes, decoder.outer_bytes) + batch

    def plan(self) -> HarvestPlan:
        """Plan the whole harvest. Raises InputError if a single batch does not fit into the memory."""
        decoder, n_layers = self.decoder, self.needed_levels[-1]
        names = decoder.outer_weights + [name for layer in decoder.layer_weights[:n_layers] for name in layer]
        memory = self.memory_for(self._n_rows if self.all_in_memory else self.slab_rows)
        shard = SHARD_ROWS * self._row_bytes * len(self.levels)  # of a cache that is being written
        return HarvestPlan.of(
            self.data,
            decoder.width,
            weights=decoder.files.size_bytes(names),
            # While a slab is written, its last level is still on disk.
            spill=(self._n_rows * len(self.needed_levels) + self.slab_rows) * self._row_bytes,
            cpu=max(memory, PROCESS_BYTES + 2 * shard),
            gpu=self._gpu,
        )

    def memory_for(self, slab_rows: int) -> int:
        """Return the bytes of CPU memory: the process, two layers of weights, a batch and two slabs."""
        return self._memory_without_slabs + min(IN_MEMORY * slab_rows, self._n_rows) * self._row_bytes

    @cached_property
    def slab_rows(self) -> int:
        """Rows per slab: whole batches in half of the remaining memory. Raises InputError if it holds no batch."""
        allowed, least = self.settings.allowed(CPU), self.memory_for(self.batch_rows)
        if allowed < least:
            raise InputError(
                f"the harvest needs {in_units(least)} of memory (this process {in_units(PROCESS_BYTES)}, two layers of "
                f"weights {in_units(self._weights_on_cpu)}, the rest for a batch) but may take {in_units(allowed)}: "
                "raise memory, or lower data.model_batch_size"
            )
        largest = min((allowed - self._memory_without_slabs) // IN_MEMORY, LARGEST_SLAB)
        return min(max(1, largest // (self.batch_rows * self._row_bytes)) * self.batch_rows, self._n_rows)

    @property
    def all_in_memory(self) -> bool:
        """True if the memory holds the hidden states of all rows."""
        return self.settings.allowed(CPU) >= self._memory_without_slabs + self._n_rows * self._row_bytes

    def fill(self) -> int:
        """Harvest what is missing in the caches and return its number of tokens; after an InputError a call resumes."""
        caches = {split: cache for split in SPLITS if (cache := self.data.cache(split)) is not None}
        key = xxhash.xxh3_64_hexdigest("".join(cache.path.name for cache in caches.values()).encode())
        directory = self.spill / f"streamed-{key}-{self.batch_rows}"
        reusable = sum(map(directory_bytes, [directory, *(cache.path for cache in caches.values())]))
        self.plan().check_disk(self.root, self.spill, reusable)
        missing = {split: cache for split, cache in caches.items() if not cache.complete}
        with locked(directory):
            written = _Run(self, directory, missing).fill() if missing else 0
            shutil.rmtree(directory, ignore_errors=True)
        return written


class _Run:
    """One run of a streamed harvest into the missing caches."""

    def __init__(self, backend: StreamedBackend, directory: Path, caches: dict[Split, ActivationCache]) -> None:
        self.decoder, self.levels, self.needed_levels = backend.decoder, backend.levels, backend.needed_levels
        self.caches = caches
        self.batches = {split: cache.batches(backend.batch_rows) for split, cache in caches.items()}
        first = next(iter(caches.values()))
        shape, dtype = (first.rows.context_size, self.decoder.width), backend.data.model_name.torch_dtype()
        self.files = SlabFiles(directory, self.needed_levels, shape, dtype)
        rows_per_slab = slab_rows(directory, backend.slab_rows)
        self.slabs = [slab for split, batches in self.batches.items() for slab in cut(split, batches, rows_per_slab)]
        self.files.remove_stale(self.slabs)
        self.reached = {slab: self.files.level(slab) for slab in self.slabs}
        self.pipeline = partial(SlabPipeline, self.files, rows_per_slab, backend.all_in_memory)
        model = xxhash.xxh3_64_hexdigest(first.settings["model"]["fingerprint"].encode())
        remove_parts(backend.root)
        self.decoder.files.check_by(backend.root / f"weights-{model}.json")

    def fill(self) -> int:
        """Bring all slabs to the last level that a hook point needs, then write the caches."""
        if any(level != self.needed_levels[-1] for level in self.reached.values()):
            with self.pipeline() as pipeline:
                self._embed(pipeline)
                self._stream(pipeline)
        widths = dict.fromkeys(self.levels, self.decoder.width)
        return sum(cache.fill(widths, partial(self._read, split)) for split, cache in self.caches.items())

    def _embed(self, pipeline: SlabPipeline) -> None:
        with self.decoder.outer(), tqdm(total=len(self.slabs), desc="Embeddings", unit=" slabs") as bar:
            for slab in self.slabs:
                for start, stop in slab.batches(self.batches[slab.of]):
                    self.decoder.prepare(self.caches[slab.of].rows.tokens[start:stop])
                if self.reached[slab] is None:
                    pipeline.write(slab, 0, self._computed(0, bar, slab, pipeline.memory(slab)))
                else:
                    bar.update()

    def _stream(self, pipeline: SlabPipeline) -> None:
        decoder, last = self.decoder, self.needed_levels[-1]
        first = min(level for level in self.reached.values() if level is not None)
        if first == last:
            return
        if first:
            logger.info("resuming at layer %d of %d", first, last)
        size = max(map(decoder.files.memory_bytes, decoder.layer_weights[first:last]))
        memory = [torch.empty(size, dtype=torch.uint8) for _ in range(2)]
        waiting, begin = 0.0, time.perf_counter()
        with (
            ThreadPoolExecutor(1) as reader,
            tqdm(total=(last - first) * len(self.slabs), desc="Layers", unit=" slabs") as bar,
        ):
            next_weights = reader.submit(decoder.files.read, decoder.layer_weights[first], memory[0])
            for index in range(first, last):
                before = time.perf_counter()
                weights = next_weights.result()
                waiting += time.perf_counter() - before
                with decoder.layer(index, weights):
                    # The next layer is read only now, into the buffer that is free: memory holds two layers, not three.
                    if decoder.lies_in(index, memory[0]):
                        memory.reverse()
                    if index + 1 < last:
                        next_weights = reader.submit(decoder.files.read, decoder.layer_weights[index + 1], memory[0])
                    slabs = [slab for slab in self.slabs if self.reached[slab] == index]
                    bar.update(len(self.slabs) - len(slabs))
                    pipeline.advance(slabs, index, partial(self._computed, index + 1, bar))
        seconds = time.perf_counter() - begin
        read = decoder.files.size_bytes([name for names in decoder.layer_weights[first:last] for name in names])
        logger.info(
            "%d layers in %.2f s: %s of weights at %s/s; %.2f s of it waiting for weights",
            last - first,
            seconds,
            in_units(read),
            in_units(read / seconds),
            waiting,
        )

    def _computed(self, level: int, bar: tqdm, slab: Slab, hidden: Tensor) -> Iterator[Tensor]:
        """Bring a slab's hidden states to a level in place, yielding each batch."""
        tokens = self.caches[slab.of].rows.tokens
        for start, stop in slab.batches(self.batches[slab.of]):
            part = hidden[start - slab.start : stop - slab.start]
            yield part.copy_(
                self.decoder.forward_layer(level - 1, part) if level else self.decoder.embed(tokens[start:stop])
            )
        self.reached[slab] = level
        bar.update()

    def _read(self, split: Split, start: int, stop: int) -> Iterator[RowActivations]:
        """Yield the activations of some rows, in the batches of the language model."""
        first = self.caches[split].rows.first_position
        for batch in self.batches[split]:
            if not start <= batch[0] < stop:
                continue
            slab = next(slab for slab in self.slabs if slab.of == split and slab.start <= batch[0] < slab.stop)
            read = {
                level: self.files.read_rows(slab, level, *batch)[:, first:].contiguous() for level in self.needed_levels
            }
            yield RowActivations(batch[0], {hook: read[level] for hook, level in self.levels.items()})
