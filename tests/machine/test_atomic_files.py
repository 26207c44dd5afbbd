"""Files appear whole or not at all: after errors, on a full disk, after a kill."""

import errno
import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from itda_lightning.errors import InputError
from itda_lightning.machine.atomic_files import explained, new_directory, write_file, write_json, write_text

NO_SPACE = (
    r"^no space left while writing .*result: free some space or choose another place; what was written before is un"
)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "result"
    path.write_text("old")
    return path


def test_a_file_is_written_with_its_directories(tmp_path):
    path = tmp_path / "a" / "b" / "result"
    write_text(path, "Grüße\n")
    assert path.read_bytes() == "Grüße\n".encode()
    assert names(path.parent) == ["result"]


def test_a_file_is_replaced(old):
    write_text(old, "new")
    assert old.read_text() == "new"
    assert names(old.parent) == ["result"]


def test_the_old_file_stands_until_the_new_one_is_whole(old):
    def write(temporary: Path) -> None:
        temporary.write_text("new")
        assert temporary.parent == old.parent  # a move between file systems would not be one step
        assert old.read_text() == "old"

    write_file(old, write)
    assert old.read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt()])
def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(old, error):
    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise error

    with pytest.raises(type(error)):
        write_file(old, write)
    assert old.read_text() == "old"
    assert names(old.parent) == ["result"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_while_writing(old, number):
    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(number, os.strerror(number))

    with pytest.raises(InputError, match=NO_SPACE):
        write_file(old, write)
    assert old.read_text() == "old"
    assert names(old.parent) == ["result"]


def test_a_full_disk_that_shows_only_when_the_data_is_forced_out(old, monkeypatch):
    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(InputError, match=NO_SPACE):
        write_text(old, "new")
    assert old.read_text() == "old"
    assert names(old.parent) == ["result"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_device_that_is_really_full(old):
    def write(temporary: Path) -> None:
        temporary.unlink()
        temporary.symlink_to("/dev/full")
        temporary.write_text("new")

    with pytest.raises(InputError, match=NO_SPACE):
        write_file(old, write)
    assert old.read_text() == "old"
    assert names(old.parent) == ["result"]


def test_a_full_disk_as_safetensors_tells_it(old):
    def write(temporary: Path) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(InputError, match=NO_SPACE):
        write_file(old, write)


def test_a_real_error_of_the_system_inside_safetensors_is_explained(tmp_path):
    path = tmp_path / "missing" / "x"
    with (
        pytest.raises(InputError, match=r"^failed while writing .*/missing/x: .*os error 2\)"),
        explained(path, "writing"),
    ):
        save_file({"x": torch.zeros(2)}, path)


def test_other_errors_of_safetensors_pass():
    with pytest.raises(SafetensorError, match=r"^invalid header$"), explained(Path("x"), "reading"):
        raise SafetensorError("invalid header")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR])
def test_what_is_not_permitted(number):
    message = rf"^not permitted while reading a/b \({os.strerror(number)}\): choose another place$"
    with pytest.raises(InputError, match=message), explained(Path("a/b"), "reading"):
        raise OSError(number, os.strerror(number))


def test_any_other_refusal_of_the_system_is_told_as_it_is():
    with (
        pytest.raises(InputError, match=r"^failed while reading a: \[Errno 5\] Input/output error$"),
        explained(Path("a"), "reading"),
    ):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("below", ["result/file", "result/further/file"])
def test_a_path_below_a_regular_file(old, below):
    path = old.parent / below
    with pytest.raises(InputError, match=rf"^not permitted while writing .*{below} \(.*\): choose another place$"):
        write_text(path, "new")
    with (
        pytest.raises(InputError, match=rf"^not permitted while writing .*{below} \(.*\): choose another place$"),
        new_directory(path),
    ):
        pass
    assert old.read_text() == "old"


def test_a_directory_is_no_file_to_replace(tmp_path):
    (tmp_path / "result").mkdir()
    with pytest.raises(InputError, match=r"^not permitted while writing .*result \(Is a directory\)"):
        write_text(tmp_path / "result", "new")
    assert names(tmp_path) == ["result"]


def test_json_is_written_as_utf_8_and_read_back(tmp_path):
    content = {"text": "naïve ☃", "list": [1, 2.5, None, True]}
    write_json(tmp_path / "x.json", content)
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == content
    assert "☃" in text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_without_numbers_that_are_no_json(old, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(old, {"x": value})
    assert old.read_text() == "old"


def test_a_new_directory_appears_when_its_block_ends(tmp_path):
    path = tmp_path / "a" / "run"
    with new_directory(path) as directory:
        (directory / "file").write_text("x")
        assert not path.exists()
    assert names(path.parent) == ["run"]
    assert names(path) == ["file"]


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_a_new_directory_overwrites_nothing(tmp_path, kind):
    path = tmp_path / "run"
    path.mkdir() if kind == "directory" else path.write_text("old")
    message = r"run exists already: choose another path or remove it first, nothing is overwritten$"
    with pytest.raises(InputError, match=message), new_directory(path):
        pytest.fail("the block must not be entered")
    assert names(tmp_path) == ["run"]


def fill_and_fail(path: Path, error: Exception) -> None:
    with new_directory(path) as directory:
        (directory / "file").write_text("x")
        raise error


def test_an_error_leaves_no_new_directory(tmp_path):
    with pytest.raises(RuntimeError, match=r"^stop$"):
        fill_and_fail(tmp_path / "run", RuntimeError("stop"))
    assert names(tmp_path) == []


def test_a_full_disk_leaves_no_new_directory(tmp_path):
    with pytest.raises(InputError, match=NO_SPACE):
        fill_and_fail(tmp_path / "result", OSError(errno.ENOSPC, "No space left on device"))
    assert names(tmp_path) == []


def test_what_a_killed_process_of_the_same_number_left_is_no_obstacle(tmp_path):
    left = tmp_path / f".run.{os.getpid()}.part"
    left.mkdir()
    (left / "half").write_text("x")
    with new_directory(tmp_path / "run") as directory:
        (directory / "file").write_text("x")
    assert names(tmp_path) == ["run"]
    assert names(tmp_path / "run") == ["file"]


def write_half_and_be_killed(path: Path) -> None:
    path.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)


def be_killed_in_new_directory(path: Path) -> None:
    with new_directory(path) as directory:
        write_half_and_be_killed(directory / "file")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_kill_while_writing_leaves_what_was_there(old, kind):
    process = os.fork()
    if process == 0:
        try:
            if kind == "file":
                write_file(old, write_half_and_be_killed)
            else:
                be_killed_in_new_directory(old.parent / "run")
        finally:
            os._exit(0)  # reached only if the kill did not come
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert old.read_text() == "old"
    # What was being written has another name, and does not stand in the way of another attempt.
    left, *others = names(old.parent)
    assert left.endswith(".part")
    assert others == ["result"]
    write_text(old, "new")
    assert old.read_text() == "new"
