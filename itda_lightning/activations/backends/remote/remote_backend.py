"""The remote backend: NDIF runs the model and sends activations, one request per batch.

Batches are written to the cache file by file, so an interrupted run resumes after the last whole file.
"""

from collections.abc import Iterator
from functools import partial

from itda_lightning.activations.backends.harvest_plan import PROCESS_BYTES, HarvestPlan
from itda_lightning.activations.backends.remote.served_model import ServedModel
from itda_lightning.activations.cache import SHARD_ROWS, cache_bytes
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.harvesting import RowActivations
from itda_lightning.activations.text.rows import Rows
from itda_lightning.activations.text.split import SPLITS


class RemoteBackend:
    """Harvests the activations of a DataModule through nnsight.

    Args:
        data: rows and hook points; its language model is not loaded.
        remote: nnsight's option: True for the NDIF server that nnsight is configured for, "local" for this machine
            through a serialised request, False for this machine.

    Raises:
        InputError: nnsight or the key is missing, the server does not serve the model, an unknown architecture, or a
            hook point outside of the residual stream between layers.
    """

    def __init__(self, data: ActivationsDataModule, remote: bool | str = True) -> None:
        self.data = data
        self.model = ServedModel(data.model_name, remote)
        self.levels = {hook: self.model.level(hook) for hook in data.hook_names}
        self.needed_levels = sorted(set(self.levels.values()))
        data.check_context(self.model.longest_context)

    def plan(self) -> HarvestPlan:
        """Plan the whole harvest: no weights, and the memory of received and written activations."""
        data, width = self.data, self.model.width
        rows = [data.cached_rows(split) for split in SPLITS]
        context, first = rows[0].context_size, rows[0].first_position
        n_rows, n_hooks = sum(map(len, rows)), len(data.hook_names)
        row_bytes = (context - first) * width * data.model_name.torch_dtype().itemsize
        batch = data.hparams["model_batch_size"] * row_bytes * len(self.needed_levels)
        shard = SHARD_ROWS * row_bytes * n_hooks
        return HarvestPlan(
            tokens=n_rows * context,
            weights=0,
            received=n_rows * row_bytes * len(self.needed_levels),
            cache=sum(cache_bytes(part, n_hooks * width, data.hparams["cache_dtype"]) for part in rows),
            spill=0,
            # A batch is in memory as received and as unpacked.
            cpu=PROCESS_BYTES + 2 * batch + 2 * shard,
            gpu=0,
        )

    def fill(self) -> int:
        """Harvest what is missing in the caches and return its number of tokens.

        Raises:
            InputError: a server that cannot be reached or refuses, a full disk; what was written stays, and the same
                call resumes.
        """
        widths, written = dict.fromkeys(self.levels, self.model.width), 0
        for cache in map(self.data.cache, SPLITS):
            assert cache is not None
            if not cache.complete:
                written += cache.fill(widths, partial(self._read, cache.rows))
        return written

    def _read(self, rows: Rows, start: int, stop: int) -> Iterator[RowActivations]:
        step = self.data.hparams["model_batch_size"]
        for row in range(start, stop, step):
            read = self.model.read(rows.tokens[row : min(row + step, stop)], self.needed_levels, rows.first_position)
            yield RowActivations(row, {hook: read[level] for hook, level in self.levels.items()})
