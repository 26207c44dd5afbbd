"""The in_memory backend: harvest with the whole model in memory, as a fit does, but with a plan."""

from pathlib import Path
from typing import Any

import psutil
import torch

from itda_lightning.activations.backends.harvest_plan import PROCESS_BYTES, HarvestPlan, batch_bytes
from itda_lightning.activations.cache import SHARD_ROWS, cache_bytes
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.models.language_model import BALANCED
from itda_lightning.activations.models.quantised import check_bitsandbytes, working_bytes
from itda_lightning.activations.models.skeleton import config_of, directory_of, make_skeleton
from itda_lightning.activations.text.split import SPLITS
from itda_lightning.errors import InputError

SUFFIXES = (".safetensors", ".bin")


class InMemoryBackend:
    """Harvests the activations of a DataModule with its language model loaded whole.

    Raises:
        InputError: a model that was not downloaded, has an unknown architecture, or is quantised in an unsupported way;
            raised before weights are read.
    """

    def __init__(self, data: ActivationsDataModule) -> None:
        self.data = data
        self.directory = directory_of(data.model_name)
        self.config: Any = config_of(self.directory)
        candidates = [[path for path in self.directory.iterdir() if path.suffix == suffix] for suffix in SUFFIXES]
        self.files: list[Path] = next(filter(None, candidates), [])
        if not self.files:
            raise InputError(f"{self.directory} holds no weights ({' or '.join(SUFFIXES)}): download them")
        self._quantizer = check_bitsandbytes(self.config, self.directory, data.model_name.torch_dtype())
        if self._quantizer is not None:
            self._skeleton = make_skeleton(self.directory, data.model_name)

    def plan(self) -> HarvestPlan:
        """Plan the whole harvest, assuming that every hook point is as wide as the residual stream."""
        data, text = self.data, self.config.get_text_config()
        rows = [data.cached_rows(split) for split in SPLITS]
        context, dtype, width = rows[0].context_size, data.model_name.torch_dtype(), int(text.hidden_size)
        tokens, n_hooks = context * sum(map(len, rows)), len(data.hook_names)
        stored = sum(file.stat().st_size for file in self.files)
        held, working = self._weights(stored)
        batch = batch_bytes(text, data.hparams["model_batch_size"], context, dtype.itemsize)
        shard = SHARD_ROWS * context * width * dtype.itemsize * n_hooks
        on_cpu = data.model_name.torch_device().type == "cpu"
        if data.model_name.device == BALANCED:  # layers that do not fit stay on disk
            held = min(held, psutil.virtual_memory().available)
        taken = held + batch + working
        return HarvestPlan(
            tokens=tokens,
            weights=stored,
            received=0,
            cache=sum(cache_bytes(part, n_hooks * width, data.hparams["cache_dtype"]) for part in rows),
            spill=0,
            # The CPU loads a model on its way to a GPU.
            cpu=PROCESS_BYTES + taken + 2 * shard,
            gpu=0 if on_cpu else taken,
        )

    def _weights(self, stored: int) -> tuple[int, int]:
        """Return the bytes of the loaded weights, and those that a product needs beside packed ones."""
        name = self.data.model_name
        if self._quantizer is None:
            parameters = stored // (getattr(self.config, "dtype", None) or torch.float32).itemsize
            return parameters * name.torch_dtype().itemsize, 0
        return stored, working_bytes(self._skeleton, self._quantizer, name.torch_device(), name.torch_dtype())

    def fill(self) -> int:
        """Harvest what is missing in the caches and return its number of tokens; raises as ``ActivationCache``."""
        before = self.data.harvested_tokens
        self.data.fill_caches()
        return self.data.harvested_tokens - before
