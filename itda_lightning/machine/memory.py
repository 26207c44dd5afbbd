"""Decide how much memory pursuits may take beyond activations, atoms and codes, and measure a process's peak."""

import contextlib
import errno
import threading
from functools import cache
from pathlib import Path

import psutil
import torch

DEFAULT_SHARE = 0.5  # of all memory; only large dictionaries use most of it
SMALLEST_BUDGET = 2**20
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
TOO_LITTLE_MEMORY = (
    "takes more memory or address space than this process may have: free some, raise its limit (ulimit -v), or ask for "
    "less at a time; nothing is damaged"
)
# How torch, mmap and the allocators of other libraries say it.
OUT_OF_MEMORY = ("allocate memory", "out of memory", "not enough memory", "std::bad_alloc")


def memory_budget(device: torch.device, given: int | None = None) -> int:
    """Return the bytes that a pursuit may use: ``given``, or half of the device's (or container's) memory.

    Raises:
        ValueError: less than 1 MiB.
    """
    if given is not None:
        if given < SMALLEST_BUDGET:
            raise ValueError(f"memory_budget is in bytes and must be at least {SMALLEST_BUDGET:,} (1 MiB), got {given}")
        return given
    return int(total_memory(device) * DEFAULT_SHARE)


def total_memory(device: torch.device) -> int:
    """Return the bytes of a GPU's memory, or of the machine's (or container's)."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    total = _memory_of_the_machine()
    with contextlib.suppress(OSError, ValueError):  # no control groups, or no limit ("max")
        total = min(total, int(CGROUP_LIMIT.read_text()))
    return total


def is_out_of_memory(error: BaseException) -> bool:
    """Return True for an error, or one with a cause, that memory or address space ran out.

    Example:
        >>> from itda_lightning.machine.memory import is_out_of_memory
        >>> is_out_of_memory(OSError(12, "Cannot allocate memory")), is_out_of_memory(OSError(2, "No such file"))
        (True, False)
    """
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    cause = error.__cause__ or error.__context__
    said = any(words in str(error).lower() for words in OUT_OF_MEMORY)
    return said or (cause is not None and is_out_of_memory(cause))


@cache
def _memory_of_the_machine() -> int:
    return psutil.virtual_memory().total


class PeakMemory:
    """``with PeakMemory() as peak: ...``, then ``peak.bytes``: the largest resident memory, sampled every 50 ms.

    Pages of mapped files (shared libraries, the cache of activations) are not counted if the system reports them
    separately, since they are freed when other processes need memory.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._process = psutil.Process()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            self._look()

    def _look(self) -> None:
        memory = self._process.memory_info()
        self.bytes = max(self.bytes, memory.rss - getattr(memory, "shared", 0))
