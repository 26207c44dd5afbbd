"""The helper that runs tests in groups of processes."""

import os
import signal
import time

import pytest
import torch
from torch import distributed

from tests.process_groups import GroupError, run_in_group


def sum_over_ranks(x):
    x = x * (distributed.get_rank() + 1)
    distributed.all_reduce(x)
    return distributed.get_rank(), x


def fail_at(rank):
    if distributed.get_rank() == rank:
        raise ValueError("no such atom")


def die_at(rank):
    if distributed.get_rank() == rank:
        os.kill(os.getpid(), signal.SIGKILL)


def hang_at(rank):
    if distributed.get_rank() == rank:
        time.sleep(60)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_results_come_by_rank(n):
    results = run_in_group(n, sum_over_ranks, torch.tensor([1.0, 2.0]))
    assert [rank for rank, _ in results] == list(range(n))
    for _, x in results:
        assert torch.equal(x, torch.tensor([1.0, 2.0]) * n * (n + 1) / 2)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (fail_at, "rank 1: (?s:.*)ValueError: no such atom"),
        (die_at, "rank 1: ended with exit code -9"),
        (hang_at, "rank 1: did not end within 5 s"),
    ],
)
@pytest.mark.long
def test_a_member_that_fails_is_told(function, told):
    with pytest.raises(GroupError, match=told) as raised:
        run_in_group(2, function, 1, timeout=1200 if function is not hang_at else 5)
    assert set(raised.value.errors) == {1}
