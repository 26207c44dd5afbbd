"""The in_memory backend: the whole model loaded as a fit loads it, with the plan that the streamed backend gives, too."""

from pathlib import Path
from typing import Any, get_args

import psutil
import torch

from itda_lightning.activations.backends.harvest_plan import PROCESS_BYTES, HarvestPlan, batch_bytes
from itda_lightning.activations.cache import SHARD_ROWS, cache_bytes
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.models.language_model import BALANCED
from itda_lightning.activations.models.quantised import check_bitsandbytes, working_bytes
from itda_lightning.activations.models.skeleton import config_of, directory_of, make_skeleton
from itda_lightning.activations.text.split import Split
from itda_lightning.errors import InputError

SUFFIXES = (".safetensors", ".bin")


class InMemoryBackend:
    """Harvests what a data module asks for with its language model, loaded as a whole.

    Raises:
        InputError: a model that was not downloaded, of an unknown architecture, or quantised with bitsandbytes in a way that
            cannot be computed with. No weights were read then.
    """

    def __init__(self, data: ActivationsDataModule) -> None:
        self.data = data
        self.directory = directory_of(data.model_name)
        self.config: Any = config_of(self.directory)
        found = [[path for path in self.directory.iterdir() if path.suffix == suffix] for suffix in SUFFIXES]
        self.files: list[Path] = next(filter(None, found), [])
        if not self.files:
            raise InputError(f"{self.directory} holds no weights ({' or '.join(SUFFIXES)}): download them")
        self._quantizer = check_bitsandbytes(self.config, self.directory, data.model_name.torch_dtype())
        if self._quantizer is not None:
            self._skeleton = make_skeleton(self.directory, data.model_name)

    def plan(self) -> HarvestPlan:
        """What all of the harvest takes, taking every hook point to be as wide as the residual stream."""
        data, text = self.data, self.config.get_text_config()
        rows = [data.cached_rows(split) for split in get_args(Split)]
        context, dtype, width = rows[0].context_size, data.model_name.torch_dtype(), int(text.hidden_size)
        tokens, n_hooks = context * sum(map(len, rows)), len(data.hook_names)
        stored = sum(file.stat().st_size for file in self.files)
        held, working = self._weights(stored)
        batch = batch_bytes(text, data.hparams["model_batch_size"], context, dtype.itemsize)
        shard = SHARD_ROWS * context * width * dtype.itemsize * n_hooks
        on_cpu = data.model_name.torch_device().type == "cpu"
        if data.model_name.device == BALANCED:  # what does not fit stays on disk
            held = min(held, psutil.virtual_memory().available)
        taken = held + batch + working
        return HarvestPlan(
            tokens=tokens,
            weights=stored,
            received=0,
            cache=sum(cache_bytes(part, n_hooks * width, data.hparams["cache_dtype"]) for part in rows),
            spill=0,
            # A model on its way to a GPU is loaded by the CPU.
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
        """Harvest what is not in the caches yet; returns the number of tokens. Raises InputError as ``ActivationCache``."""
        before = self.data.harvested_tokens
        self.data.fill_caches()
        return self.data.harvested_tokens - before
