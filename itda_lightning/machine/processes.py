"""The processes of a run: their number, how work is divided among them, and collective operations.

All processes call every function in the same order, in torch.distributed's default group, which Lightning's strategies
set up. In a single process, each function returns its own input.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

from itda_lightning.errors import InputError

# The variable of the environment with the seconds that a process waits for the others, and its default.
TIMEOUT, DEFAULT_TIMEOUT = "ITDA_LIGHTNING_TIMEOUT", 300.0
LONGEST_TIMEOUT = 30 * 24 * 3600.0
# What gloo, NCCL and the store say if a process ended, froze or cannot be reached; they raise plain RuntimeErrors.
OF_THE_GROUP = re.compile(
    r"gloo|NCCL|ProcessGroup|Connection (closed|reset|refused)|Timed? ?out|Broken pipe|TCPStore|rendezvous",
    re.IGNORECASE,
)


def process_timeout() -> timedelta:
    """Return how long a process waits for the others: ``ITDA_LIGHTNING_TIMEOUT`` in seconds, by default 5 minutes.

    Raises:
        InputError: the variable is no number of seconds.
    """
    given = os.environ.get(TIMEOUT, "")
    try:
        seconds = float(given) if given.strip() else DEFAULT_TIMEOUT
    except ValueError:
        seconds = -1.0
    if not 1 <= seconds <= LONGEST_TIMEOUT:
        raise InputError(f"{TIMEOUT} must be between 1 and {LONGEST_TIMEOUT:,.0f} seconds, got {given!r}")
    return timedelta(seconds=seconds)


@contextmanager
def group_of_torchrun() -> Iterator[None]:
    """Join the processes that torchrun started for the length of the block; do nothing if it started none.

    Raises InputError, here and in the block, if the others end or freeze, or cannot be reached.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield
        return
    with together():
        try:
            dist.init_process_group("gloo", timeout=process_timeout())
        except ValueError as error:  # variables that do not name a group
            raise InputError(
                f"cannot join the processes of torchrun: {error}; unset WORLD_SIZE for one process"
            ) from error
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
    with together():
        dist.all_gather(received, sent)
    return torch.cat([part[:count] for part, count in zip(received, counts, strict=True)]).to(own.device)


def broadcast(value: Tensor, source: int) -> Tensor:
    """Return the tensor of process ``source``; others pass one of its shape and dtype. Raises as ``gather_rows``."""
    if n_ranks() == 1:
        return value
    sent = _on_wire(value).contiguous()
    with together():
        dist.broadcast(sent, source)
    return sent.to(value.device)


def add_up(value: Tensor) -> Tensor:
    """Return the sum of the tensors of all processes, which have one shape. Raises as ``gather_rows``."""
    if n_ranks() == 1:
        return value
    total = _on_wire(value).clone()
    with together():
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
def together() -> Iterator[None]:
    """Turn what a group raises in the block, Lightning's own barriers included, into an InputError of one line."""
    try:
        yield
    except RuntimeError as error:
        if (words := lost_others(error)) is None:
            raise
        raise InputError(words) from error


def lost_others(error: BaseException) -> str | None:
    """Return in words what a group of processes raised because others ended or froze; None for any other error."""
    in_group = n_ranks() > 1 or os.environ.get("WORLD_SIZE", "1") != "1"
    if not (in_group and isinstance(error, RuntimeError)):
        return None
    if not (isinstance(error, dist.DistError) or OF_THE_GROUP.search(str(error))):
        return None
    who = f"process {rank()} of {n_ranks()}" if n_ranks() > 1 else "this process"
    seconds = process_timeout().total_seconds()
    # Without gloo's source file, and its advice to look at the other process.
    reason = re.sub(r"\[\S*/gloo/\S*\] ", "", str(error).splitlines()[0]).partition(". This is typically")[0]
    return (
        f"{who} lost the others ({reason}): one of them ended, and its own output says why, or did "
        f"not answer for {seconds:g} s, which {TIMEOUT} sets; what was written stays, and --ckpt_path last resumes the "
        "run"
    )
