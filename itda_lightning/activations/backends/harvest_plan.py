"""The plan of a harvest: the bytes that it reads and writes and the memory that it takes, checked before it starts."""

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from humanize import naturalsize

from itda_lightning.activations.cache import cache_bytes
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.text.split import SPLITS
from itda_lightning.errors import InputError
from itda_lightning.machine.checks import check_at_least
from itda_lightning.machine.memory import SMALLEST_BUDGET, memory_budget
from itda_lightning.machine.paths import user_path

CPU = torch.device("cpu")
# Memory of the process without weights and activations: Python and its libraries.
PROCESS_BYTES = 2**30

# A number of bytes with a decimal unit.
in_units = partial(naturalsize, format="%.4g")


@dataclass(frozen=True)
class HarvestSettings:
    """Settings of a harvest.

    Args:
        backend: in_memory (the whole model is loaded, as by a fit), streamed (the model stays on disk and is read layer
            by layer, once, whatever the number of tokens) or remote (NDIF runs the model; needs the extra ``remote``
            and nnsight's key, e.g. in NDIF_API_KEY). Weights quantised with bitsandbytes stay packed (extra
            ``quantised``); others are not quantised.
        memory: bytes of CPU memory that the process may use; null for half of the machine's or container's.
        gpu_memory: bytes of GPU memory that may be used if data.device is a GPU; null for half of the GPU's.
        spill_dir: directory for the hidden states of the streamed backend; null for data.cache_dir.

    Raises:
        InputError: less than a MiB of memory, or a spill_dir that no file system holds.
    """

    backend: Literal["in_memory", "streamed", "remote"] = "in_memory"
    memory: int | None = None
    gpu_memory: int | None = None
    spill_dir: str | None = None

    def __post_init__(self) -> None:
        check_at_least(SMALLEST_BUDGET, {"memory": self.memory, "gpu_memory": self.gpu_memory}, "give bytes")
        if self.spill_dir is not None:
            user_path(self.spill_dir, "spill_dir")

    def allowed(self, device: torch.device) -> int:
        """Return the bytes that may be taken: on the CPU by the whole process, on a GPU beside what is in use."""
        return memory_budget(device, self.memory if device.type == "cpu" else self.gpu_memory)

    def directories(self, data: ActivationsDataModule) -> tuple[Path, Path]:
        """Return the directory of the caches, and that of hidden states until the caches are written."""
        cache = user_path(data.hparams["cache_dir"])
        return cache, cache if self.spill_dir is None else user_path(self.spill_dir)


@dataclass(frozen=True)
class HarvestPlan:
    """The needs of a harvest, in bytes.

    Attributes:
        tokens: number of tokens that the language model reads.
        cache, spill: disk for the cache, and for hidden states until it is written.
        cpu, gpu: peak memory; ``gpu`` is 0 without a GPU.
        weights: read from the model's files.
        received: activations from the network, if another machine runs the model.
    """

    tokens: int
    cache: int
    cpu: int
    gpu: int = 0
    spill: int = 0
    weights: int = 0
    received: int = 0

    @classmethod
    def of(cls, data: ActivationsDataModule, width: int, **needs: int) -> "HarvestPlan":
        """Plan the harvest of all rows, at hook points of one width."""
        rows = [data.cached_rows(split) for split in SPLITS]
        stored = [cache_bytes(part, len(data.read_points) * width, data.hparams["cache_dtype"]) for part in rows]
        return cls(tokens=data.hparams["context_size"] * sum(map(len, rows)), cache=sum(stored), **needs)

    def check_memory(self, settings: HarvestSettings, device: torch.device) -> None:
        """Raise InputError if the memory does not suffice."""
        parts = [("memory", self.cpu, settings.allowed(CPU))]
        if device.type == "cuda":
            parts.append(("gpu_memory", self.gpu, settings.allowed(device)))
        for name, needed, allowed in parts:
            if needed > allowed:
                raise InputError(
                    f"the harvest needs {in_units(needed)} of {name} but may take {in_units(allowed)}: raise "
                    f"{name}, lower data.model_batch_size, or set backend=streamed if the model is loaded whole"
                )

    def check_disk(self, cache: Path, spill: Path, reusable: int) -> None:
        """Raise InputError if the disk does not suffice, counting ``reusable`` bytes on it as free."""
        together = _existing(cache).stat().st_dev == _existing(spill).stat().st_dev
        for what, path, size in (("the cache", cache, self.cache), ("hidden states", spill, self.spill)):
            needed = self.cache + self.spill if together else size
            free = shutil.disk_usage(_existing(path)).free + reusable
            if needed > free:
                raise InputError(
                    f"the harvest needs {in_units(self.cache)} of disk for the cache and {in_units(self.spill)} for "
                    f"hidden states but {path}, for {what}, has {in_units(free)}: lower data.training_tokens, set "
                    "data.cache_dtype=bfloat16, or give another data.cache_dir or spill_dir"
                )

    def lines(self, settings: HarvestSettings, device: torch.device) -> list[str]:
        """Describe the plan of a language model that computes on this device, one line per resource."""
        gpu = f"; GPU: {in_units(self.gpu)} of {in_units(settings.allowed(device))}" if self.gpu else ""
        received = f"{in_units(self.received)} of activations from the network, no weights"
        return [
            f"tokens: {self.tokens:,}",
            f"disk: {in_units(self.cache)} for the cache, {in_units(self.spill)} for hidden states meanwhile",
            f"peak memory: {in_units(self.cpu)} of {in_units(settings.allowed(CPU))}{gpu}",
            f"to read: {received if self.received else f'{in_units(self.weights)} of weights'}",
        ]


def directory_bytes(directory: Path) -> int:
    """Return the bytes of all files in a directory; 0 if there is none."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def batch_bytes(config: object, rows: int, context: int, itemsize: int) -> int:
    """Estimate the bytes of one batch within a layer: feed-forward activations, heads and attention scores."""

    def setting(*names: str, otherwise: int) -> int:
        return next((value for name in names if isinstance(value := getattr(config, name, None), int)), otherwise)

    width = setting("hidden_size", otherwise=0)
    inner = setting("intermediate_size", "n_inner", otherwise=4 * width)
    inner *= setting("num_experts_per_tok", otherwise=1)
    scores = setting("num_attention_heads", otherwise=1) * context * (8 + 2 * itemsize)
    return rows * context * (itemsize * (4 * inner + 12 * width) + scores)


def _existing(path: Path) -> Path:
    """Return the nearest directory, from the path upwards, that exists."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.is_dir())
