"""Processes of the tests, forked from one server that has imported everything once: importing is most of a command."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch

from itda_lightning.__main__ import COMMANDS

# One server per test process; its children share what it has imported.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["torch.distributed", "tests.fits", "tests.warm_server", *(f"itda_lightning.{name}" for name in COMMANDS)]
)


def run_python(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m MODULE ...`` or ``python -c CODE ...``, with the arguments given, in a forked process.

    Args:
        cwd: its working directory.
        environment: variables to set.

    Returns:
        Its exit code and what it printed, as ``subprocess.run`` does.
    """
    with tempfile.TemporaryDirectory(prefix="command-") as place:
        outputs = [Path(place) / name for name in ("stdout", "stderr")]
        process = PROCESSES.Process(
            target=_run, args=([str(argument) for argument in arguments], outputs, cwd, environment)
        )
        process.start()
        process.join(1200)
        hangs = process.exitcode is None
        process.kill()
        assert not hangs, f"{arguments} hangs"
        stdout, stderr = (output.read_text(encoding="utf-8", errors="replace") for output in outputs)
    return subprocess.CompletedProcess(list(arguments), process.exitcode or 0, stdout, stderr)


def print_to(outputs: Iterable[Path]) -> None:
    """Let this process write its standard output and its standard error into files; one file may be both."""
    for number, output in zip((1, 2), outputs, strict=True):
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)


def _run(arguments: list[str], outputs: list[Path], cwd: Path | None, environment: dict[str, str]) -> None:
    print_to(outputs)
    os.environ.update(environment)
    os.chdir(cwd or Path.cwd())
    torch.set_num_threads(1)
    kind, what, *others = arguments
    sys.argv = [what, *others]
    if kind == "-c":
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.modules.pop(what, None)  # the server's, of which runpy would warn
        runpy.run_module(what, run_name="__main__", alter_sys=True)
