"""Blocks cover the rows once and in order, however often memory runs out; what else fails is raised."""

import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itda_lightning.machine.shrinking_blocks import in_blocks


@given(n=st.integers(0, 60), size=st.integers(1, 70), unit=st.integers(1, 9), most=st.integers(1, 70))
def test_every_row_is_in_one_block_that_fits(n: int, size: int, unit: int, most: int) -> None:
    """A device on which blocks of more than ``most`` rows, at least a unit, do not fit."""
    size, most = size * unit, max(most, unit)

    def work(rows: slice) -> range:
        if rows.stop - rows.start > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return range(n)[rows]

    blocks = list(in_blocks(n, size, work, unit))
    assert [row for block in blocks for row in block] == list(range(n))
    assert len(blocks) >= 1
    assert all(len(block) <= most and block.start % unit == 0 for block in blocks)


def test_a_block_of_one_unit_that_does_not_fit_raises(caplog: pytest.LogCaptureFixture) -> None:
    def work(rows: slice) -> None:
        raise torch.OutOfMemoryError(f"CUDA out of memory with {rows.stop - rows.start}")

    with caplog.at_level(logging.WARNING), pytest.raises(torch.OutOfMemoryError, match="with 4"):
        list(in_blocks(100, 20, work, unit=4))
    assert [record.args for record in caplog.records] == [(8,), (4,)]
    assert caplog.messages[0] == "memory ran out: going on with 8 activations at a time"


def test_other_errors_are_raised_at_once() -> None:
    tried = []

    def work(rows: slice) -> None:
        tried.append(rows)
        raise RuntimeError("the size of tensor a must match")

    with pytest.raises(RuntimeError, match="must match"):
        list(in_blocks(10, 4, work))
    assert len(tried) == 1


def test_nothing_of_a_block_that_failed_is_kept() -> None:
    """Its tensors must be free before smaller ones are made: the error, which holds them, is gone by then."""
    import gc
    import weakref

    alive: list[weakref.ref[torch.Tensor]] = []

    def work(rows: slice) -> int:
        assert not [tensor for tensor in alive if tensor() is not None]
        scores = torch.zeros(rows.stop - rows.start)
        alive.append(weakref.ref(scores))
        if len(scores) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return len(scores)

    gc.disable()
    try:
        assert list(in_blocks(4, 8, work)) == [2, 2]
    finally:
        gc.enable()
