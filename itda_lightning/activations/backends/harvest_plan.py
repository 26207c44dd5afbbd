"""The plan of a harvest: what it reads, writes and takes, said before it starts and refused where it does not fit."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from itda_lightning.activations.backends.machine_rates import disk_read_rate, disk_write_rate, product_rate
from itda_lightning.errors import InputError
from itda_lightning.machine.checks import check_at_least
from itda_lightning.machine.memory import SMALLEST_BUDGET, memory_budget

CPU = torch.device("cpu")
# What the process takes without weights and activations: Python and its libraries.
PROCESS_BYTES = 2**30


@dataclass(frozen=True)
class Limits:
    """Bytes of memory that a harvest may take; None for half of what the machine or the container has.

    Attributes:
        memory: of the CPU, by the whole process.
        gpu_memory: of the GPU, where the language model runs on one.
    """

    memory: int | None = None
    gpu_memory: int | None = None

    def __post_init__(self) -> None:
        check_at_least(SMALLEST_BUDGET, {"memory": self.memory, "gpu_memory": self.gpu_memory}, "give bytes")

    def of(self, device: torch.device) -> int:
        """Bytes that may be taken: of the CPU by the whole process, of a GPU beside what is there."""
        return memory_budget(device, self.memory if device.type == "cpu" else self.gpu_memory)


@dataclass(frozen=True)
class HarvestPlan:
    """What a harvest will take, in bytes.

    Attributes:
        tokens: that the language model reads.
        weights: one of the model's files; None where another machine holds the model.
        read: of weights; of activations from the network where another machine holds the model.
        cache, spill: written to the cache, and held on disk meanwhile.
        cpu, gpu: peak of memory; ``gpu`` is 0 without one.
        flops: floating-point operations of this machine, at most.
        spill_traffic: bytes of hidden states that are written and read again in all.
        width: of the products by which the time is estimated.
    """

    tokens: int
    weights: Path | None
    read: int
    cache: int
    spill: int
    cpu: int
    gpu: int
    flops: int
    spill_traffic: int
    width: int

    def check_memory(self, limits: Limits, device: torch.device) -> None:
        """Raises InputError where the memory does not suffice."""
        parts = [("memory", self.cpu, limits.of(CPU))]
        if device.type == "cuda":
            parts.append(("gpu_memory", self.gpu, limits.of(device)))
        for name, needed, allowed in parts:
            if needed > allowed:
                raise InputError(
                    f"the harvest needs {in_units(needed)} of {name} but may take {in_units(allowed)}: raise "
                    f"{name}, lower data.model_batch_size, or where the model is loaded whole set backend=streamed"
                )

    def check_disk(self, cache: Path, spill: Path, reusable: int = 0) -> None:
        """Raises InputError where the disk does not suffice, even with the ``reusable`` bytes that it holds already."""
        places = {"the cache": (cache, self.cache), "hidden states": (spill, self.spill)}
        together = _device(cache) == _device(spill)
        for what, (path, needed) in places.items():
            wanted = self.cache + self.spill if together else needed
            free = shutil.disk_usage(_existing(path)).free + reusable
            if wanted > free:
                raise InputError(
                    f"the harvest needs {in_units(self.cache)} of disk for the cache and {in_units(self.spill)} for hidden "
                    f"states but {path}, for {what}, has {in_units(free)}: lower data.training_tokens, set "
                    "data.cache_dtype=bfloat16, or give another data.cache_dir or spill_dir"
                )

    def lines(self, limits: Limits, device: torch.device, dtype: torch.dtype, spill: Path) -> list[str]:
        """The plan in words, with the time from a short measurement of the disk and of matrix products.

        Args:
            limits, device, dtype: what may be taken, where and in what the language model computes.
            spill: where hidden states are written.
        """
        write = disk_write_rate(_existing(spill))
        gpu = f"; GPU: {in_units(self.gpu)} of {in_units(limits.of(device))}" if self.gpu else ""
        lines = [
            f"tokens: {self.tokens:,}",
            f"disk: {in_units(self.cache)} for the cache, {in_units(self.spill)} for hidden states meanwhile, at "
            f"{in_units(write)}/s",
            f"peak memory: {in_units(self.cpu)} of {in_units(limits.of(CPU))}{gpu}",
        ]
        if self.weights is None:
            received = f"to read: {in_units(self.read)} of activations from the network, no weights"
            return [*lines, received, "time: not known before, another machine computes"]
        read, products = disk_read_rate(self.weights), product_rate(device, dtype, self.width)
        # Weights are read, and hidden states read and written, while layers compute; the cache is written at the end.
        seconds = (
            max(self.flops / products, self.read / read + self.spill_traffic / min(write, read)) + self.cache / write
        )
        return [
            *lines,
            f"to read: {in_units(self.read)} of weights, at {in_units(read)}/s",
            f"compute: at most {self.flops / 1e12:.3g} TFLOP, at {products / 1e12:.3g} TFLOP/s on {device}",
            f"time: about {_duration(seconds)}",
        ]


class HarvestBackend(Protocol):
    """One way to harvest what a data module asks for. What cannot be is refused when it is made."""

    def plan(self) -> HarvestPlan:
        """What all of the harvest takes; reads nothing large."""
        ...

    def fill(self) -> int:
        """Harvest what is not in the caches yet; returns the number of tokens. After a failure the same call goes on."""
        ...


def in_units(size: int | float) -> str:
    """A number of bytes with a decimal unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"


def directory_bytes(directory: Path) -> int:
    """Bytes of all files in a directory; 0 without one."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def batch_bytes(config: object, rows: int, context: int, itemsize: int) -> int:
    """What one batch takes within a layer, about: activations of the feed-forward part, heads, attention scores."""

    def setting(*names: str, otherwise: int) -> int:
        return next((value for name in names if isinstance(value := getattr(config, name, None), int)), otherwise)

    width = setting("hidden_size", otherwise=0)
    inner = setting("intermediate_size", "n_inner", otherwise=4 * width)
    inner *= setting("num_experts_per_tok", otherwise=1)
    scores = setting("num_attention_heads", otherwise=1) * context * (8 + 2 * itemsize)
    return rows * context * (itemsize * (4 * inner + 12 * width) + scores)


def _existing(path: Path) -> Path:
    """The nearest directory above that exists."""
    path = path.expanduser().absolute()
    while not path.is_dir():
        path = path.parent
    return path


def _device(path: Path) -> int:
    return _existing(path).stat().st_dev


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 600
        else f"{seconds / 60:.0f} min"
        if seconds < 36000
        else f"{seconds / 3600:.0f} h"
    )
