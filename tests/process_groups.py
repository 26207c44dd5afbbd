"""Real groups of processes on this machine, joined by torch.distributed's gloo, for tests."""

import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from tests.processes import PROCESSES


class GroupError(Exception):
    """Members of a group that failed; ``errors`` holds by rank the traceback, or how the process ended."""

    def __init__(self, errors: dict[int, str]) -> None:
        super().__init__("\n".join(f"rank {rank}: {error}" for rank, error in errors.items()))
        self.errors = errors


def run_in_group(n: int, function: Callable[..., Any], *args: Any, timeout: float = 1200) -> list[Any]:
    """Run ``function(*args)`` in each of ``n`` processes of one gloo group and return the results by rank.

    Waits for all members, even if some have failed, and ends those that are left after ``timeout`` seconds.

    Args:
        function: defined at the top of a module that the processes can import (a test module can be); it finds its rank
            by ``torch.distributed.get_rank()``. Arguments and results are pickled.

    Raises:
        GroupError: members that raised, died or did not end in time.
    """
    with tempfile.TemporaryDirectory(prefix="group-") as directory:
        call = pickle.dumps((function, args))
        members, answers = [], []
        for rank in range(n):
            answer, sender = PROCESSES.Pipe(duplex=False)
            member = PROCESSES.Process(target=_member, args=(rank, n, Path(directory) / "store", timeout, call, sender))
            member.start()
            sender.close()  # so that the end of the process is the end of the pipe
            members.append(member)
            answers.append(answer)
        results, errors = _collect(answers, time.monotonic() + timeout)
        for rank, member in enumerate(members):
            if rank not in results and rank not in errors:
                member.kill()
                errors[rank] = f"did not end within {timeout} s"
            member.join()
            if rank in errors and not errors[rank]:
                errors[rank] = f"ended with exit code {member.exitcode} and no result"
    if errors:
        raise GroupError(dict(sorted(errors.items())))
    return [results[rank] for rank in range(n)]


def _collect(answers: list[Connection], deadline: float) -> tuple[dict[int, Any], dict[int, str]]:
    """Return results and errors by rank; the error is empty if the process ended without one."""
    results: dict[int, Any] = {}
    errors: dict[int, str] = {}
    rank_of = {answer: rank for rank, answer in enumerate(answers)}
    while rank_of and (left := deadline - time.monotonic()) > 0:
        for answer in wait(list(rank_of), left):
            assert isinstance(answer, Connection)
            rank = rank_of.pop(answer)
            try:
                succeeded, outcome = pickle.loads(answer.recv_bytes())
            except EOFError:
                errors[rank] = ""
                continue
            if succeeded:
                results[rank] = outcome
            else:
                errors[rank] = outcome
    return results, errors


def _member(rank: int, n: int, store: Path, timeout: float, call: bytes, answer: Connection) -> None:
    torch.set_num_threads(1)
    try:
        distributed.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=n, timeout=timedelta(seconds=timeout)
        )
        # A member that ends while another one still joins would fail that one's joining, whatever the test is about.
        distributed.barrier()
        function, args = pickle.loads(call)
        # By value: tensors that are shared by file descriptors would die with this process.
        answer.send_bytes(pickle.dumps((True, function(*args))))
        distributed.destroy_process_group()
    except BaseException:
        answer.send_bytes(pickle.dumps((False, traceback.format_exc())))
