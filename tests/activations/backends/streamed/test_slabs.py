"""Slabs are cut in whole batches, written and read bit for bit and checked; their files tell the progress."""

import errno
import itertools
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itda_lightning.activations.backends.streamed.slabs import Slab, SlabFiles, cut, slab_rows
from itda_lightning.errors import InputError

SLAB = Slab("train", 4, 10)


@pytest.fixture
def slabs(tmp_path: Path) -> SlabFiles:
    """Files of rows of 3 positions of width 2, of which levels 1 and 3 are needed."""
    return SlabFiles(tmp_path, [1, 3], (3, 2), torch.bfloat16)


def read(slabs: SlabFiles, slab: Slab, level: int) -> torch.Tensor:
    found = slabs.empty(slab.stop - slab.start)
    slabs.read(slab, level, found)
    return found


def hidden(seed: int = 0) -> torch.Tensor:
    return torch.randn(6, 3, 2, generator=torch.Generator().manual_seed(seed)).bfloat16()


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.integers(5, 12))
def test_slabs_hold_all_batches_in_order_and_no_more_rows_than_wanted(sizes: list[int], rows: int) -> None:
    ends = torch.tensor(sizes).cumsum(0).tolist()
    batches = list(zip([0, *ends], ends, strict=False))
    pieces = cut("train", batches, rows)
    assert [batch for slab in pieces for batch in slab.batches(batches)] == batches
    assert [slab.start for slab in pieces] == [0, *(slab.stop for slab in pieces[:-1])]
    assert all(slab.stop - slab.start <= rows for slab in pieces)
    for slab, after in itertools.pairwise(pieces):
        first = next(after.batches(batches))
        assert first[1] - slab.start > rows, "as few slabs as can be"


def test_what_is_written_is_read(slabs: SlabFiles) -> None:
    slabs.write(SLAB, 0, [hidden()])
    assert read(slabs, SLAB, 0).equal(hidden())
    assert slabs.read_rows(SLAB, 0, 5, 8).equal(hidden()[1:4])


def test_parts_make_the_same_file(slabs: SlabFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slabs.write(SLAB, 0, [hidden()])
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    monkeypatch.setattr("itda_lightning.activations.backends.streamed.slabs.SYNCED_AT_A_TIME", 24)
    slabs.write(SLAB, 0, iter([hidden()[:1], hidden()[1:5], hidden()[5:]]))
    assert path.read_bytes() == whole


def test_wanted_levels_stay_and_others_go(slabs: SlabFiles, tmp_path: Path) -> None:
    assert slabs.level(SLAB) is None
    for level in range(4):
        slabs.write(SLAB, level, [hidden(level)])
        assert slabs.level(SLAB) == level
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".level-0001", ".level-0003"]
    assert read(slabs, SLAB, 1).equal(hidden(1))


def test_without_a_wanted_level_the_slab_goes_back_before_it(slabs: SlabFiles, tmp_path: Path) -> None:
    for level in range(4):
        slabs.write(SLAB, level, [hidden()])
    (lost,) = tmp_path.glob("*.level-0001")
    lost.unlink()
    assert slabs.level(SLAB) is None
    slabs.write(SLAB, 0, [hidden()])
    assert slabs.level(SLAB) == 0


def test_what_a_kill_leaves_is_removed(slabs: SlabFiles, tmp_path: Path) -> None:
    slabs.write(SLAB, 0, [hidden()])
    slabs.write(SLAB, 2, [hidden()])
    slabs.write(SLAB, 1, [hidden()])
    (tmp_path / ".something.999999999.part").write_text("half")
    slabs.remove_stale([SLAB])
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".level-0001", ".level-0002"]


@pytest.mark.parametrize("at", [0, 30, -1, "short", "long", "empty"])
@pytest.mark.parametrize("rows", [False, True])
def test_a_damaged_file_is_named(slabs: SlabFiles, tmp_path: Path, at: int | str, rows: bool) -> None:
    slabs.write(SLAB, 0, [hidden()])
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    if isinstance(at, int):
        content[at] ^= 1
    else:
        content = {"short": content[:-3], "long": content + b"x", "empty": bytearray()}[at]
    path.write_bytes(bytes(content))
    with pytest.raises(
        InputError, match=rf"the hidden states in {path} are truncated or damaged: remove this file and "
    ):
        _ = slabs.read_rows(SLAB, 0, 4, 5) if rows else read(slabs, SLAB, 0)


def test_a_full_disk(slabs: SlabFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slabs.write(SLAB, 0, [hidden()])

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        InputError, match=r"no space left while writing .*level-0001.*what was written before is untouched"
    ):
        slabs.write(SLAB, 1, [hidden(1)])
    assert slabs.level(SLAB) == 0
    assert read(slabs, SLAB, 0).equal(hidden())
    assert len(list(tmp_path.iterdir())) == 1


def test_the_rows_that_a_killed_run_began_with(tmp_path: Path) -> None:
    assert [slab_rows(tmp_path, rows) for rows in (5, 9)] == [5, 5]
    with pytest.raises(InputError, match="began with slabs of 5 rows, of which the memory holds 4 now: raise memory"):
        slab_rows(tmp_path, 4)


@pytest.mark.parametrize(
    "content", ["", "{", "[5]", "{}", '{"rows": "5"}', '{"rows": 0}', '{"rows": 5, "x": 1}', "\xff"]
)
def test_a_damaged_record_of_them(tmp_path: Path, content: str) -> None:
    (tmp_path / "slabs.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=rf"^[^\n]*slabs\.json[^\n]*remove {tmp_path} to start again$"):
        slab_rows(tmp_path, 9)
