"""Decide how much memory pursuits may take beyond activations, atoms and codes."""

import contextlib
from pathlib import Path

import psutil
import torch

# Share of the machine's memory that may be used unless the user gives a budget; only large dictionaries use most of it.
DEFAULT_SHARE = 0.5
SMALLEST_BUDGET = 2**20
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def memory_budget(device: torch.device, given: int | None = None) -> int:
    """Return the bytes that a pursuit may use: ``given``, or half of the device's (or container's) memory.

    Raises:
        ValueError: less than 1 MiB.
    """
    if given is not None:
        if given < SMALLEST_BUDGET:
            raise ValueError(f"memory_budget is in bytes and must be at least {SMALLEST_BUDGET:,} (1 MiB), got {given}")
        return given
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory * DEFAULT_SHARE)
    total = psutil.virtual_memory().total
    with contextlib.suppress(OSError, ValueError):  # no control groups, or no limit ("max")
        total = min(total, int(CGROUP_LIMIT.read_text()))
    return int(total * DEFAULT_SHARE)
