"""The processes of a run: which one this is, how work is divided among them, and what they tell one another.

Every function is called by all processes in the same order, with torch.distributed's default group as Lightning's strategies
set it up. In a process of its own, each gives what it was given.
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
    """The processes that torchrun started work together meanwhile; nothing is changed where it started none."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    dist.init_process_group("gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def n_ranks() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if n_ranks() > 1 else 0


def shares(n: int, unit: int = 1) -> list[slice]:
    """Consecutive parts of ``range(n)``, one a process, as equal as whole units of ``unit`` allow."""
    units = -(-n // unit)
    edges = [min(n, unit * (units * part // n_ranks())) for part in range(n_ranks() + 1)]
    return [slice(*edge) for edge in pairwise(edges)]


def gather_rows(mine: Shaped[Tensor, "mine ..."], counts: list[int]) -> Shaped[Tensor, "all ..."]:
    """The rows of all processes, one process after another.

    Args:
        mine: as many rows as ``counts`` says of this process.
        counts: the number of rows of every process.

    Raises:
        InputError: another process ended.
    """
    if n_ranks() == 1:
        return mine
    sent = _on_wire(mine.new_zeros(max(counts), *mine.shape[1:]))
    sent[: len(mine)] = mine
    received = [torch.empty_like(sent) for _ in counts]
    with _together():
        dist.all_gather(received, sent)
    return torch.cat([part[:count] for part, count in zip(received, counts, strict=True)]).to(mine.device)


def broadcast(value: Tensor, source: int) -> Tensor:
    """The tensor of process ``source``; those of the others tell its shape and dtype. Raises as ``gather_rows``."""
    if n_ranks() == 1:
        return value
    sent = _on_wire(value).contiguous()
    with _together():
        dist.broadcast(sent, source)
    return sent.to(value.device)


def add_up(value: Tensor) -> Tensor:
    """The sum of the tensors of all processes, which have one shape. Raises as ``gather_rows``."""
    if n_ranks() == 1:
        return value
    total = _on_wire(value).clone()
    with _together():
        dist.all_reduce(total)
    return total.to(value.device)


def gather_json(value: Any) -> list[Any]:
    """The JSON values of all processes. Raises as ``gather_rows``."""
    if n_ranks() == 1:
        return [value]
    mine = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)
    counts = gather_rows(torch.tensor([len(mine)]), [1] * n_ranks()).tolist()
    everything = gather_rows(mine, counts)
    return [json.loads(bytes(part.tolist())) for part in everything.split(counts)]


def wait_for_all() -> None:
    """Return when every process came here. Raises as ``gather_rows``."""
    gather_rows(torch.zeros(1), [1] * n_ranks())


def _on_wire(value: Tensor) -> Tensor:
    """Where the group's backend finds it: nccl sends from GPUs only."""
    return value.cuda() if dist.get_backend() == "nccl" else value.cpu()


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of another process that is gone, or of a network
        raise InputError(
            f"process {rank()} of {n_ranks()} lost the others ({str(error).splitlines()[0]}): one of them ended, and its own "
            "output says why; what was written stays, and the run goes on with --ckpt_path last"
        ) from error
