"""The plan of a harvest: the bytes that it reads and writes and the memory that it takes, checked before it starts."""

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from humanize import naturalsize

from itda_lightning.errors import InputError
from itda_lightning.machine.checks import check_at_least
from itda_lightning.machine.memory import SMALLEST_BUDGET, memory_budget

CPU = torch.device("cpu")
# Memory of the process without weights and activations: Python and its libraries.
PROCESS_BYTES = 2**30

# A number of bytes with a decimal unit.
in_units = partial(naturalsize, format="%.4g")


@dataclass(frozen=True)
class Limits:
    """Bytes of memory that a harvest may take; None for half of what the machine or the container has.

    Attributes:
        memory: CPU memory of the whole process.
        gpu_memory: GPU memory, if the language model runs on a GPU.
    """

    memory: int | None = None
    gpu_memory: int | None = None

    def __post_init__(self) -> None:
        check_at_least(SMALLEST_BUDGET, {"memory": self.memory, "gpu_memory": self.gpu_memory}, "give bytes")

    def of(self, device: torch.device) -> int:
        """Return the bytes that may be taken: on the CPU by the whole process, on a GPU beside what is in use."""
        return memory_budget(device, self.memory if device.type == "cpu" else self.gpu_memory)


@dataclass(frozen=True)
class HarvestPlan:
    """The needs of a harvest, in bytes.

    Attributes:
        tokens: number of tokens that the language model reads.
        weights: read from the model's files.
        received: activations from the network, if another machine runs the model.
        cache, spill: disk for the cache, and for hidden states until it is written.
        cpu, gpu: peak memory; ``gpu`` is 0 without a GPU.
    """

    tokens: int
    weights: int
    received: int
    cache: int
    spill: int
    cpu: int
    gpu: int

    def check_memory(self, limits: Limits, device: torch.device) -> None:
        """Raise InputError if the memory does not suffice."""
        parts = [("memory", self.cpu, limits.of(CPU))]
        if device.type == "cuda":
            parts.append(("gpu_memory", self.gpu, limits.of(device)))
        for name, needed, allowed in parts:
            if needed > allowed:
                raise InputError(
                    f"the harvest needs {in_units(needed)} of {name} but may take {in_units(allowed)}: raise "
                    f"{name}, lower data.model_batch_size, or set backend=streamed if the model is loaded whole"
                )

    def check_disk(self, cache: Path, spill: Path, reusable: int = 0) -> None:
        """Raise InputError if the disk does not suffice, counting ``reusable`` bytes on it as free."""
        places = {"the cache": (cache, self.cache), "hidden states": (spill, self.spill)}
        together = _device(cache) == _device(spill)
        for what, (path, size) in places.items():
            needed = self.cache + self.spill if together else size
            free = shutil.disk_usage(_existing(path)).free + reusable
            if needed > free:
                raise InputError(
                    f"the harvest needs {in_units(self.cache)} of disk for the cache and {in_units(self.spill)} for "
                    f"hidden states but {path}, for {what}, has {in_units(free)}: lower data.training_tokens, set "
                    "data.cache_dtype=bfloat16, or give another data.cache_dir or spill_dir"
                )

    def lines(self, limits: Limits, device: torch.device) -> list[str]:
        """Describe the plan, one line per resource.

        Args:
            limits: memory that may be taken.
            device: where the language model computes.
        """
        gpu = f"; GPU: {in_units(self.gpu)} of {in_units(limits.of(device))}" if self.gpu else ""
        received = f"{in_units(self.received)} of activations from the network, no weights"
        return [
            f"tokens: {self.tokens:,}",
            f"disk: {in_units(self.cache)} for the cache, {in_units(self.spill)} for hidden states meanwhile",
            f"peak memory: {in_units(self.cpu)} of {in_units(limits.of(CPU))}{gpu}",
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
    path = path.expanduser().absolute()
    while not path.is_dir():
        path = path.parent
    return path


def _device(path: Path) -> int:
    return _existing(path).stat().st_dev
