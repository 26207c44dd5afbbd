"""Memory nodes: which there are, and that pages are interleaved over those that are asked for."""

import logging
import platform
import sys
from pathlib import Path

import pytest
import torch

from itda_lightning.machine import numa
from itda_lightning.pursuit import PreparedAtoms

linux = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in numa.MBIND, reason="memory nodes are Linux's"
)


def policy_of(tensor: torch.Tensor) -> str:
    """What the kernel says of the pages of a tensor."""
    page = -(-tensor.data_ptr() // 4096) * 4096
    areas = [line.split() for line in Path("/proc/self/numa_maps").read_text().splitlines()]
    return next(policy for start, policy, *_ in areas if int(start, 16) == page)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    nodes, status = tmp_path / "has_memory", tmp_path / "status"
    (tmp_path / "has_cpu").write_text("0-2,6")
    monkeypatch.setattr(numa, "NODES", tmp_path)
    monkeypatch.setattr(numa, "STATUS", status)
    return nodes, status


@pytest.mark.parametrize(
    ("nodes", "allowed", "expected"),
    [("0\n", "0", [0]), ("0-1\n", "0-1", [0, 1]), ("0-3,6\n", "1-3,6-7", [1, 2, 6]), ("\n", "0", []), ("0", "", [])],
)
def test_nodes_are_those_that_have_memory_and_processors_and_are_allowed(
    machine: tuple[Path, Path], nodes: str, allowed: str, expected: list[int]
) -> None:
    machine[0].write_text(nodes)
    machine[1].write_text(f"Name:\tpython\nMems_allowed_list:\t{allowed}\nThreads:\t1\n")
    assert numa.memory_nodes() == expected


def test_a_system_that_does_not_tell_has_no_nodes(machine: tuple[Path, Path]) -> None:
    assert numa.memory_nodes() == []


@linux
def test_pages_are_interleaved_and_keep_what_is_written() -> None:
    tensor = torch.full((numa.LEAST_BYTES + 12_345,), 7, dtype=torch.uint8)
    assert numa.interleave(tensor.data_ptr(), len(tensor), [0])
    assert policy_of(tensor).startswith("interleave")
    assert bool((tensor == 7).all())


@linux
def test_a_refusal_of_the_system_is_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    tensor = torch.empty(numa.LEAST_BYTES, dtype=torch.uint8)
    with caplog.at_level(logging.INFO, "itda_lightning"):
        assert not numa.interleave(tensor.data_ptr(), len(tensor), [numa.LARGEST_NODE])
    assert "could not be spread over the memory nodes" in caplog.text


def test_what_the_threads_of_a_pursuit_read_is_placed_before_it_is_written(
    machine: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine[0].write_text("0-1")
    machine[1].write_text("Mems_allowed_list:\t0-1\n")
    placed: list[int] = []
    monkeypatch.setattr(numa, "interleave", lambda address, size, nodes: placed.append(address) or True)
    monkeypatch.setattr(numa, "LEAST_BYTES", 1)
    atoms = torch.nn.functional.normalize(torch.randn(64, 8), dim=1)
    prepared = PreparedAtoms(atoms, 64, half=True)
    prepared.build_gram()
    assert prepared.gram is not None
    assert prepared.coarse is not None
    assert placed == [prepared.coarse.data_ptr(), prepared.gram.data_ptr()]


def test_small_tensors_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numa, "memory_nodes", lambda: [0, 1])
    monkeypatch.setattr(numa, "interleave", lambda *_: pytest.fail("a small tensor was spread"))
    zeros = numa.spread_zeros(numa.LEAST_BYTES - 1, dtype=torch.uint8, device=torch.device("cpu"))
    assert not bool(zeros.any())
