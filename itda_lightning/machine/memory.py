"""How much memory pursuits may take beyond activations, atoms and codes."""

import contextlib
from pathlib import Path

import psutil
import torch

# The share of the machine's memory that is taken unless the user gives a budget; most of it only by large dictionaries.
DEFAULT_SHARE = 0.5
SMALLEST_BUDGET = 2**20
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def memory_budget(device: torch.device, wanted: int | None = None) -> int:
    """Bytes that a pursuit may use: ``wanted``, or half of the memory of the device (of the container, if smaller).

    Raises:
        ValueError: less than 1 MiB.
    """
    if wanted is not None:
        if wanted < SMALLEST_BUDGET:
            raise ValueError(
                f"memory_budget is in bytes and must be at least {SMALLEST_BUDGET:,} (1 MiB), got {wanted}"
            )
        return wanted
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory * DEFAULT_SHARE)
    total = psutil.virtual_memory().total
    with contextlib.suppress(OSError, ValueError):  # no control groups, or no limit ("max")
        total = min(total, int(CGROUP_LIMIT.read_text()))
    return int(total * DEFAULT_SHARE)
