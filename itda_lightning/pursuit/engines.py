"""Say by what pursuits run on each device of this machine, without running one."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from itda_lightning.pursuit.coarse import half_products_pay

LOOPS = Path(__file__).parent / "kernels" / "__pycache__"


@dataclass(frozen=True)
class Engine:
    """A device, and the engine that encodes activations there."""

    device: str
    name: str
    engine: str
    threads: int | None  # of the CPU
    half_products: bool | None  # of the CPU: bfloat16 products are faster than float32 ones, so they screen atoms


def engines() -> list[Engine]:
    """Return the engine of the CPU and of each CUDA device."""
    if find_spec("numba") is None:
        loops = "plain torch, several times slower than compiled loops: install numba"
    else:
        compiled = any(LOOPS.glob("*.nbi"))
        loops = f"loops compiled by numba, {'kept on disk' if compiled else 'half a minute at first use'}"
    found = [Engine("cpu", "", loops, torch.get_num_threads(), half_products_pay())]
    kernel = "Triton" if find_spec("triton") is not None else "plain torch, slower than by Triton: install triton"
    for index in range(torch.cuda.device_count()):
        found.append(Engine(f"cuda:{index}", torch.cuda.get_device_name(index), kernel, None, None))
    return found
