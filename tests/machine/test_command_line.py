"""How commands end."""

import errno
import logging
import os
import signal
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest
import torch

from itda_lightning.errors import InputError
from itda_lightning.machine.command_line import ADVERTISERS, ISSUES, OF_DEATHS, run_command, start_logging


def raising(error: BaseException):
    def command() -> None:
        raise error

    return command


def test_a_command_that_succeeds_does_not_exit():
    done = []
    run_command(lambda: done.append(True))
    assert done == [True]


def test_bad_input_is_one_line_and_exit_code_2(capsys):
    with pytest.raises(SystemExit) as ended:
        run_command(raising(InputError("no such thing:\n  give another")))
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: no such thing: give another\n"


def test_an_interrupt_is_exit_code_130(capsys):
    with pytest.raises(SystemExit) as ended:
        run_command(raising(KeyboardInterrupt()))
    assert ended.value.code == 130
    assert "Traceback" not in capsys.readouterr().err


def test_sigterm_is_a_word_and_exit_code_143(capsys):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert ended.value.code == 143
    assert capsys.readouterr().err == "terminated: what was written until now is whole\n"
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/metrics.csv"), "no space left on the device of /x/metr"),
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on the device: free some, run again"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "the system refuses /x: Permission denied; check"),
        (ConnectionError("no route to\nthe hub"), "the system refuses an operation: no route to the hub; check"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "the system refuses an operation: Broken pipe; check"),
        (MemoryError(), r"not enough memory (MemoryError): lower data.model_batch_size"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory ("),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to"), "not enough memory (CUDA out of memory. Tried to)"),
    ],
)
def test_what_the_machine_refuses_is_one_line_and_exit_code_2(capsys, error, line):
    with pytest.raises(SystemExit) as ended:
        run_command(raising(error))
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {line}")
    assert told.count("\n") == 1


def test_a_bug_is_one_line_that_says_where_to_report_it(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        run_command(raising(ZeroDivisionError("of\nall")))
    assert ended.value.code == 1
    (kept,) = tmp_path.iterdir()
    assert capsys.readouterr().err == (
        "error: this is a bug of itda_lightning (ZeroDivisionError: of all): please report it at "
        f"{ISSUES} with {kept}, which holds the traceback\n"
    )
    assert kept.read_text().splitlines()[0] == "Traceback (most recent call last):"


def test_a_bug_shows_its_traceback_if_asked_to(capsys, monkeypatch):
    monkeypatch.setenv("ITDA_LIGHTNING_TRACEBACK", "1")
    with pytest.raises(SystemExit):
        run_command(raising(ZeroDivisionError()))
    told = capsys.readouterr().err
    assert told.startswith("Traceback")
    assert told.splitlines()[-1].startswith("error: this is a bug of itda_lightning (ZeroDivisionError")


def test_a_bug_where_no_file_can_be_written(capsys, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/proc/none")
    with pytest.raises(SystemExit):
        run_command(raising(ZeroDivisionError()))
    assert capsys.readouterr().err.endswith(f"report it at {ISSUES}; ITDA_LIGHTNING_TRACEBACK=1 shows the traceback\n")


def test_bugs_are_reported_where_the_project_says():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["urls"]["Issues"] == ISSUES


def test_a_reader_that_closes_the_pipe_is_no_error():
    """``itda decompose ... | head`` ends as other programs do."""
    code = (
        "import sys; from itda_lightning.machine.command_line import run_command\n"
        "def print_much():\n    for _ in range(100_000): print('x' * 100)\n"
        "run_command(print_much)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_advertisements_are_not_logged(caplog):
    before = {name: logging.getLogger(name).level for name in ("itda_lightning", OF_DEATHS, *ADVERTISERS)}
    try:
        start_logging()
        logging.getLogger("lightning.pytorch.utilities.rank_zero").info("Tip: For seamless cloud logging")
        logging.getLogger("lightning.pytorch.trainer.connectors").info("`weights_only` was not set")
        assert logging.getLogger(OF_DEATHS).isEnabledFor(logging.INFO)
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
    assert caplog.text == ""
