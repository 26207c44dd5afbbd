"""Products of float32 matrices on CUDA devices: as exact as in float32, at half the time.

Tensor cores multiply float32 numbers rounded to TF32, whose mantissa has 11 bits, and add in float32. The error of a
number's rounding is again such a number, so three products (Ozaki et al. 2012; Ootomo and Yokota 2022, arXiv
2203.03341) miss a part of 2^-22 only: as much as float32 loses in a sum of thousands.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

# Of a float32's 23 bits of mantissa the last 13, which TF32 has no room for.
LOST_BITS = 13
# Below this many multiply-adds three products and their sums take no less time than one.
FEWEST = 2**30


def product(
    x: Float[Tensor, "batch d"], atoms: Float[Tensor, "n d"], out: Float[Tensor, "batch n"]
) -> Float[Tensor, "batch n"]:
    """Write ``x @ atoms.T`` of float32 matrices to ``out``, whatever precision and autocast are set for others."""
    if x.device.type != "cuda" or len(x) * atoms.numel() < FEWEST or torch.cuda.get_device_capability(x.device)[0] < 8:
        with multiplying("ieee", x.device):
            return torch.mm(x, atoms.T, out=out)
    (x, x_rest), (atoms, atoms_rest) = split(x), split(atoms)
    with multiplying("tf32", x.device):
        torch.mm(x, atoms_rest.T, out=out)
        out.addmm_(x_rest, atoms.T)
        return out.addmm_(x, atoms.T)


def split(values: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
    """Return float32 values rounded to TF32, and what the rounding left."""
    bits = values.view(torch.int32)
    rounded = ((bits + (1 << (LOST_BITS - 1))) >> LOST_BITS << LOST_BITS).view(torch.float32)
    return rounded, values - rounded


@contextmanager
def multiplying(precision: str, device: torch.device) -> Iterator[None]:
    """Multiply float32 matrices in ``ieee`` or ``tf32``, and not in what autocast would choose."""
    matmul = torch.backends.cuda.matmul
    new = hasattr(matmul, "fp32_precision")
    name, value = ("fp32_precision", precision) if new else ("allow_tf32", precision == "tf32")
    before = getattr(matmul, name)
    setattr(matmul, name, value)
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        setattr(matmul, name, before)
