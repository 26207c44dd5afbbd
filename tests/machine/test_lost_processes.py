"""A process that dies or freezes ends the others in a stated time, with one line, wherever they wait for it."""

import os
import signal
from datetime import timedelta

import pytest
import torch.distributed

from itda_lightning import Replicated
from itda_lightning.errors import InputError
from itda_lightning.machine.processes import gather_json, group_of_torchrun, lost_others, process_timeout, together
from tests.process_groups import run_in_group


def wait_for_a_frozen_one() -> str:
    """Wait as Lightning's barriers do, in a group whose second process is stopped until the first has given up."""
    group = torch.distributed.new_group(timeout=timedelta(seconds=3))
    pids = gather_json(os.getpid())
    if torch.distributed.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
        return "thawed"
    try:
        with together():
            torch.distributed.barrier(group)
    except InputError as error:
        return str(error)
    finally:
        os.kill(pids[1], signal.SIGCONT)
    return "the barrier ended"


@pytest.mark.long
def test_a_frozen_process_ends_the_wait_of_the_others():
    told, thawed = run_in_group(2, wait_for_a_frozen_one)
    assert thawed == "thawed"
    assert told.startswith("process 0 of 2 lost the others (")
    assert "did not answer for 300 s, which ITDA_LIGHTNING_TIMEOUT sets" in told


@pytest.mark.parametrize(("given", "seconds"), [(None, 300), ("", 300), ("12.5", 12.5), ("86400", 86400)])
def test_the_time_is_five_minutes_unless_it_is_set(monkeypatch, given, seconds):
    monkeypatch.delenv("ITDA_LIGHTNING_TIMEOUT", raising=False)
    if given is not None:
        monkeypatch.setenv("ITDA_LIGHTNING_TIMEOUT", given)
    assert process_timeout() == timedelta(seconds=seconds)
    assert Replicated()._timeout == timedelta(seconds=seconds)
    assert Replicated(timedelta(seconds=7))._timeout == timedelta(seconds=7)


@pytest.mark.parametrize("given", ["soon", "0", "-3", "nan", "inf", "1e99"])
def test_a_time_that_is_none_is_refused(monkeypatch, given):
    monkeypatch.setenv("ITDA_LIGHTNING_TIMEOUT", given)
    with pytest.raises(InputError, match=r"ITDA_LIGHTNING_TIMEOUT must be between 1 and 2,592,000 seconds, got"):
        process_timeout()


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1"), True),
        (RuntimeError("[../gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 300000ms for recv"), True),
        (torch.distributed.DistStoreError("wait timeout after 300000ms, keys: /0"), True),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
        (ValueError("gloo"), False),
    ],
)
def test_errors_of_the_group_are_told_from_others(monkeypatch, error, lost):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert (lost_others(error) is not None) == lost
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert lost_others(error) is None


@pytest.mark.parametrize("size", ["2", "two"])
def test_variables_that_name_no_group_are_refused(monkeypatch, size):
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(InputError, match=r"cannot join the processes of torchrun: .*; unset WORLD_SIZE for"):
        group_of_torchrun().__enter__()
