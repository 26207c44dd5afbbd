"""The in_memory backend: harvest with the whole model in memory, as a fit does, but with a plan."""

from typing import Any

import psutil
import torch

from itda_lightning.activations.backends.harvest_plan import PROCESS_BYTES, HarvestPlan, batch_bytes
from itda_lightning.activations.cache import SHARD_ROWS
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.models.model_name import BALANCED
from itda_lightning.activations.models.quantised import quantizer_of, working_bytes
from itda_lightning.activations.models.skeleton import config_of, directory_of, make_skeleton
from itda_lightning.errors import InputError

SUFFIXES = (".safetensors", ".bin")


class InMemoryBackend:
    """Harvests the activations of a DataModule with its language model loaded whole.

    Before weights are read, it raises InputError for a model that it cannot load.
    """

    def __init__(self, data: ActivationsDataModule) -> None:
        self.data = data
        directory = directory_of(data.model_name)
        self.config: Any = config_of(directory)
        sizes = [[path.stat().st_size for path in directory.glob(f"*{suffix}")] for suffix in SUFFIXES]
        self.stored = sum(next(filter(None, sizes), []))
        if not any(sizes):
            raise InputError(f"{directory} holds no weights ({' or '.join(SUFFIXES)}): download them")
        self._quantizer = quantizer_of(self.config, directory, data.model_name.torch_dtype())
        if self._quantizer is not None:
            self._skeleton = make_skeleton(directory, data.model_name)

    def plan(self) -> HarvestPlan:
        """Plan the whole harvest, assuming that every hook point is as wide as the residual stream."""
        data, text = self.data, self.config.get_text_config()
        context, width = data.hparams["context_size"], int(text.hidden_size)
        dtype, device = data.model_name.torch_dtype(), data.model_name.torch_device()
        if self._quantizer is None:
            stored_itemsize = (getattr(self.config, "dtype", None) or torch.float32).itemsize
            held, working = self.stored // stored_itemsize * dtype.itemsize, 0
        else:
            held, working = self.stored, working_bytes(self._skeleton, self._quantizer, device, dtype)
        if data.model_name.device == BALANCED:  # layers that do not fit stay on disk
            held = min(held, psutil.virtual_memory().available)
        taken = held + batch_bytes(text, data.hparams["model_batch_size"], context, dtype.itemsize) + working
        shard = SHARD_ROWS * context * width * dtype.itemsize * len(data.read_points)
        # A file is written while the next is computed. The CPU loads a model on its way to a GPU.
        cpu, gpu = PROCESS_BYTES + taken + 3 * shard, 0 if device.type == "cpu" else taken
        return HarvestPlan.of(data, width, weights=self.stored, cpu=cpu, gpu=gpu)

    def fill(self) -> int:
        """Harvest what is missing in the caches and return its number of tokens; raises as ``ActivationCache``."""
        before = self.data.harvested_tokens
        self.data.fill_caches()
        return self.data.harvested_tokens - before
