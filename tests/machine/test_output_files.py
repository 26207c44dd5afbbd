"""What is written at a path that is no regular file: streams are written into, all else is refused and left alone."""

import os
import stat
import threading
from pathlib import Path

import pytest

from itda_lightning.errors import InputError
from itda_lightning.machine.atomic_files import new_directory, write_json, write_text
from itda_lightning.machine.output_files import check_output


def test_a_device_is_written_into_and_stays_one():
    write_text(Path("/dev/null"), "x")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    with pytest.raises(InputError, match=r"^no space left while writing /dev/full: free some space"):
        write_text(Path("/dev/full"), "x")


def test_a_pipe_is_written_into():
    reading, writing = os.pipe()
    writer = threading.Thread(target=write_text, args=(Path(f"/dev/fd/{writing}"), "x" * 100_000))  # over its buffer
    writer.start()
    with os.fdopen(reading) as stream:
        assert stream.read(100_000) == "x" * 100_000
    writer.join()
    os.close(writing)


def test_a_fifo_is_refused_and_stays_one(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for action in (check_output, lambda path: write_json(path, {"x": 1})):
        with pytest.raises(InputError, match=r"fifo is a FIFO, a disk or a socket, where results are not written: "):
            action(tmp_path / "fifo")
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)


@pytest.mark.parametrize("target", ["file", "missing", "directory", "link"])
def test_nothing_is_written_through_a_link_or_over_one(tmp_path, target):
    (tmp_path / "file").write_text("old")
    (tmp_path / "directory").mkdir()
    path = tmp_path / "link"
    path.symlink_to(tmp_path / target)
    for action in (lambda: write_text(path, "new"), lambda: check_output(path)):
        with pytest.raises(InputError, match=rf"link is a link to .*{target}, which would be replaced by a file: give"):
            action()
    with pytest.raises(InputError, match="link exists already: choose another path"), new_directory(path):
        pytest.fail("the block must not be entered")
    assert path.is_symlink()
    assert (tmp_path / "file").read_text() == "old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["directory", "file", "link"]


def test_a_place_that_will_not_do_is_refused_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for path, why in (
        (tmp_path, "Is a directory"),
        (tmp_path / "file" / "x", "Not a directory"),
        (tmp_path / "file" / "x" / "y", "Not a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
        (tmp_path / "a\0b", "null"),
    ):
        with pytest.raises(InputError, match=rf"(?s)^not permitted while writing .*\(.*{why}.*\): choose another"):
            check_output(path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match=r"\(Permission denied\): choose another place$"):
        check_output(tmp_path / "new" / "x")
    assert not (tmp_path / "new").exists()
