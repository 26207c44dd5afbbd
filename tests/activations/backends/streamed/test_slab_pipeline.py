"""Slabs that are read ahead and written while computed end as if handled one after the other."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from itda_lightning.activations.backends.streamed.slab_pipeline import IN_MEMORY, SlabPipeline
from itda_lightning.activations.backends.streamed.slabs import Slab, SlabFiles
from itda_lightning.errors import InputError

ROWS, LEVELS = 4, 3


@pytest.fixture
def files(tmp_path: Path) -> SlabFiles:
    """Files of rows of 2 positions of width 3; only the last level is needed."""
    return SlabFiles(tmp_path, [LEVELS], (2, 3), torch.float32)


def add_one(slab: Slab, hidden: Tensor) -> Iterator[Tensor]:
    for row in hidden:
        yield row.add_(1)


def embedded(pipeline: SlabPipeline, slabs: list[Slab]) -> None:
    for slab in slabs:
        pipeline.write(slab, 0, iter([pipeline.memory(slab).fill_(10 * slab.start)]))


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


def test_a_slab_is_on_disk_before_the_next_computes(files: SlabFiles) -> None:
    slabs, unfinished = [Slab("train", ROWS * i, ROWS * (i + 1)) for i in range(4)], []

    def watched(slab: Slab, hidden: Tensor) -> Iterator[Tensor]:
        for part in add_one(slab, hidden):
            unfinished.append(sum(files.level(each) == 0 for each in slabs))
            yield part

    with SlabPipeline(files, ROWS, False) as pipeline:
        embedded(pipeline, slabs)
        pipeline.advance(slabs, 0, watched)
    assert unfinished == [4] * ROWS + [3] * ROWS + [2] * ROWS + [1] * ROWS


def test_an_error_while_computing_leaves_the_slab_as_it_was(files: SlabFiles) -> None:
    slab = Slab("train", 0, ROWS)

    def fails(slab: Slab, hidden: Tensor) -> Iterator[Tensor]:
        yield hidden[:1].add_(1)
        raise ValueError("no second row")

    with SlabPipeline(files, ROWS, False) as pipeline:
        embedded(pipeline, [slab])
    with pytest.raises(ValueError, match="no second row"), SlabPipeline(files, ROWS, False) as pipeline:
        pipeline.advance([slab], 0, fails)
    (path,) = files.directory.iterdir()
    assert path.suffix == ".level-0000"
    assert files.read_rows(slab, 0, 0, ROWS).eq(0).all()
