"""Say what ran: versions of the packages that compute, and the machine."""

import os
import platform
from importlib import metadata
from typing import Any

import psutil
import torch

PACKAGES = ("itda-lightning", "torch", "lightning", "sae-lens", "transformer-lens", "transformers", "datasets", "numpy")


def versions_and_hardware() -> dict[str, Any]:
    """Return JSON facts: package -> version (None if not installed), and the machine's processors, memory and GPUs."""
    versions: dict[str, Any] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions | {
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }
