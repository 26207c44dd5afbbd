"""The processes of a run: their number, how work is divided among them, and collective operations.

All processes call every function in the same order, in torch.distributed's default group, which Lightning's strategies
set up. In a single process, each function returns its own input.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

from itda_lightning.errors import InputError


@contextmanager
def group_of_torchrun() -> Iterator[None]:
    """Join the processes that torchrun started for the length of the block; do nothing if it started none."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    dist.init_process_group("gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def n_ranks() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if n_ranks() > 1 else 0


def shares(n: int, unit: int = 1) -> list[slice]:
    """Split ``range(n)`` into one slice per process, in multiples of ``unit``, as evenly as possible."""
    units = -(-n // unit)
    edges = [min(n, unit * (units * part // n_ranks())) for part in range(n_ranks() + 1)]
    return [slice(*edge) for edge in pairwise(edges)]


def gather_rows(own: Shaped[Tensor, "own ..."], counts: list[int]) -> Shaped[Tensor, "all ..."]:
    """Return the rows of all processes, which have ``counts`` of them. Raises InputError if another process ended."""
    if n_ranks() == 1:
        return own
    sent = _on_wire(own.new_zeros(max(counts), *own.shape[1:]))
    sent[: len(own)] = own
    received = [torch.empty_like(sent) for _ in counts]
    with _together():
        dist.all_gather(received, sent)
    return torch.cat([part[:count] for part, count in zip(received, counts, strict=True)]).to(own.device)


def broadcast(value: Tensor, source: int) -> Tensor:
    """Return the tensor of process ``source``; others pass one of its shape and dtype. Raises as ``gather_rows``."""
    if n_ranks() == 1:
        return value
    sent = _on_wire(value).contiguous()
    with _together():
        dist.broadcast(sent, source)
    return sent.to(value.device)


def add_up(value: Tensor) -> Tensor:
    """Return the sum of the tensors of all processes, which have one shape. Raises as ``gather_rows``."""
    if n_ranks() == 1:
        return value
    total = _on_wire(value).clone()
    with _together():
        dist.all_reduce(total)
    return total.to(value.device)


def gather_json(value: Any) -> list[Any]:
    """Return the JSON values of all processes. Raises as ``gather_rows``."""
    if n_ranks() == 1:
        return [value]
    encoded = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)
    counts = gather_rows(torch.tensor([len(encoded)]), [1] * n_ranks()).tolist()
    return [json.loads(bytes(part.tolist())) for part in gather_rows(encoded, counts).split(counts)]


def wait_for_all() -> None:
    """Wait until every process has called this. Raises as ``gather_rows``."""
    gather_rows(torch.zeros(1), [1] * n_ranks())


def _on_wire(value: Tensor) -> Tensor:
    """Return the tensor on a device that the group's backend can send from: nccl needs a GPU."""
    return value.cuda() if dist.get_backend() == "nccl" else value.cpu()


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # another process has ended, or the network failed
        raise InputError(
            f"process {rank()} of {n_ranks()} lost the others ({str(error).splitlines()[0]}): one of them ended, and "
            "its own output says why; what was written stays, and --ckpt_path last resumes the run"
        ) from error
