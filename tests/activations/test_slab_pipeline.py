"""Slabs read ahead and written behind end as if one was read, computed and written after the other."""

import errno
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from itda_lightning.activations.slab_pipeline import IN_MEMORY, SlabPipeline
from itda_lightning.activations.slabs import Slab, SlabFiles
from itda_lightning.errors import InputError

ROWS, LEVELS = 4, 3


@pytest.fixture
def files(tmp_path: Path) -> SlabFiles:
    """Of rows of 2 positions of width 3; only what leaves the last layer is wanted."""
    return SlabFiles(tmp_path, [LEVELS], (2, 3), torch.float32)


def add_one(slab: Slab, hidden: Tensor) -> None:
    hidden += 1


def embedded(pipeline: SlabPipeline, slabs: list[Slab]) -> None:
    for slab in slabs:
        pipeline.memory(slab).fill_(10 * slab.start)
        pipeline.write(slab, 0)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("n_slabs", [1, 2, 3, 7])
def test_every_slab_goes_through_every_layer(
    files: SlabFiles, n_slabs: int, keep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The last is smaller.
    slabs = [Slab("train", ROWS * i, ROWS * (i + 1) - (i + 1 == n_slabs)) for i in range(n_slabs)]
    made: list[Tensor] = []
    empty = files.empty
    monkeypatch.setattr(files, "empty", lambda rows: made.append(empty(rows)) or made[-1])
    with SlabPipeline(files, ROWS, keep) as pipeline:
        embedded(pipeline, slabs)
        for level in range(LEVELS):
            pipeline.advance(slabs, level, add_one)
    assert len(made) == n_slabs if keep else len(made) <= IN_MEMORY
    for slab in slabs:
        assert files.level(slab) == LEVELS
        found = files.read_rows(slab, LEVELS, slab.start, slab.stop)
        assert found.equal(torch.full_like(found, 10 * slab.start + LEVELS))
    assert len(list(files.directory.iterdir())) == n_slabs


@pytest.mark.parametrize("n_slabs", [1, 3])
def test_a_full_disk_ends_it(files: SlabFiles, n_slabs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    slabs = [Slab("train", ROWS * i, ROWS * (i + 1)) for i in range(n_slabs)]

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with SlabPipeline(files, ROWS, False) as pipeline:
        embedded(pipeline, slabs)
    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(InputError, match=r"no space left while writing .*level-0001"),
        SlabPipeline(files, ROWS, False) as pipeline,
    ):
        pipeline.advance(slabs, 0, add_one)
    assert [files.level(slab) for slab in slabs] == [0] * n_slabs
