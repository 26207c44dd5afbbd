"""Machines with several memory nodes: what the threads of all nodes read is spread evenly over the nodes."""

import ctypes
import errno
import logging
import mmap
import platform
from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor

logger = logging.getLogger(__name__)

# Smaller memory stays in the processors' caches, and the allocator may hand it on, with its placement, to something else.
LEAST_BYTES = 64 * 2**20
NODES = Path("/sys/devices/system/node")
STATUS = Path("/proc/self/status")
# From the kernel's tables of system calls and linux/mempolicy.h.
MBIND = {"x86_64": 237, "aarch64": 235}
GET_MEMPOLICY = {"x86_64": 239, "aarch64": 236}
DEFAULT_POLICY, INTERLEAVE = 0, 3
LARGEST_NODE = 1023
BITS = 8 * ctypes.sizeof(ctypes.c_ulong)


def memory_nodes() -> list[int]:
    """The memory nodes with processors that this process may use; empty where the system does not tell (not Linux)."""
    try:
        nodes = _numbers((NODES / "has_memory").read_text()) & _numbers((NODES / "has_cpu").read_text())
        allowed = next(line for line in STATUS.read_text().splitlines() if line.startswith("Mems_allowed_list:"))
        return sorted(nodes & _numbers(allowed.partition(":")[2]))
    except (OSError, StopIteration, ValueError):
        return []


def spread_zeros(*shape: int, dtype: torch.dtype, device: torch.device) -> Shaped[Tensor, "..."]:
    """Zeros; where they are large and on the CPU, their pages are interleaved over the memory nodes.

    Which pages a thread will read cannot be foreseen: a pursuit reads the Gram's rows of whatever atoms it selects. By
    default a page lies on the node of the thread that wrote it first, often one node for all, whose memory then serves every
    processor. So the placement is said before anything is written: pages are not moved afterwards. It is left alone on one
    node and where the process was given a placement (``numactl``).
    """
    tensor = torch.empty(*shape, dtype=dtype, device=device)
    size = tensor.numel() * tensor.itemsize
    if tensor.device.type == "cpu" and size >= LEAST_BYTES:
        nodes = memory_nodes()
        if len(nodes) > 1:
            interleave(tensor.data_ptr(), size, nodes)
    return tensor.zero_()


def interleave(address: int, size: int, nodes: list[int]) -> bool:
    """Interleave the whole pages in ``size`` unwritten bytes from ``address`` over ``nodes``; whether the system did it."""
    machine, page = platform.machine(), mmap.PAGESIZE
    first, last = -(-address // page) * page, (address + size) // page * page
    if machine not in MBIND or last <= first or max(nodes) > LARGEST_NODE:
        return False
    kernel = ctypes.CDLL(None, use_errno=True).syscall
    policy, none = ctypes.c_int(), ctypes.c_void_p()
    if kernel(
        ctypes.c_long(GET_MEMPOLICY[machine]), ctypes.byref(policy), none, ctypes.c_ulong(), none, ctypes.c_ulong()
    ):
        return False
    if policy.value != DEFAULT_POLICY:
        return False
    mask = (ctypes.c_ulong * ((LARGEST_NODE + 1) // BITS))()
    for node in nodes:
        mask[node // BITS] |= 1 << node % BITS
    failed = kernel(
        ctypes.c_long(MBIND[machine]),
        ctypes.c_void_p(first),
        ctypes.c_ulong(last - first),
        ctypes.c_int(INTERLEAVE),
        mask,
        ctypes.c_ulong(LARGEST_NODE + 2),  # of which the kernel reads one bit less
        ctypes.c_uint(),
    )
    if failed:
        logger.info(
            "%.1f GB could not be spread over the memory nodes %s (%s): `numactl --interleave=all` does it from outside",
            size / 1e9,
            nodes,
            errno.errorcode.get(ctypes.get_errno(), "no error number"),
        )
    return not failed


def _numbers(ranges: str) -> set[int]:
    """The numbers in a list such as ``0-1,4``."""
    numbers: set[int] = set()
    for part in ranges.strip().split(","):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers
