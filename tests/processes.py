"""Processes of the tests, forked from one server that has imported everything once: importing is most of a command.

The server is itself forked from the test process, which has imported everything too. Where there is CUDA, which does
not outlive a fork, it starts anew, for a quarter of a minute.
"""

import contextlib
import gc
import importlib
import logging
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from functools import cache
from multiprocessing import forkserver, util
from pathlib import Path

import jaxtyping
import torch

from itda_lightning.__main__ import COMMANDS
from itda_lightning.pursuit import kernels

LOOPS = {"gram_rows.pursue_rows", "gram_rows.pursue_and_append", "products.select", "single_steps.take"}

# One server per test process; its children share what it has imported.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["torch.distributed", "tests.fits", "tests.warm_server", *(f"itda_lightning.{name}" for name in COMMANDS)]
)


def loops_are_compiled() -> bool:
    """Look for the compiled loops: compiling them takes half a minute, which no server may spend beside a test's."""
    directory = Path(*kernels.__path__)
    changed = max(file.stat().st_mtime for file in directory.glob("*.py"))
    cached = directory.glob("__pycache__/*.nbi")
    return {file.name.split("-")[0] for file in cached if file.stat().st_mtime > changed} >= LOOPS


@cache
def start_server() -> None:
    """Start the server now, between tests, from a process in which none of them has changed anything."""
    importlib.import_module("tests.warm_server")  # here, so that this process's tests find the loops loaded as well
    forkserver.ensure_running()


def _spawn(executable: str, arguments: list[str], descriptors: list[int]) -> int:
    """Run the code of a server in a fork, in which the descriptors are open, instead of in a new Python."""
    if "forkserver" not in arguments[-1] or torch.cuda.is_available():
        return spawn(executable, arguments, descriptors)
    process = os.fork()
    if process:
        return process
    try:
        gc.freeze()  # whatever the tests hold is not this process's to finalise
        with open(os.devnull, "r+b", buffering=0) as nowhere:  # noqa: PTH123
            for descriptor in {int(path.name) for path in Path("/dev/fd").iterdir()} - {0, 1, 2, *descriptors}:
                with contextlib.suppress(OSError):  # what listed them
                    os.fstat(descriptor)
                    os.dup2(nowhere.fileno(), descriptor)  # not free: objects that are left may write to it
        sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
        for logger in (logging.root, *map(logging.getLogger, logging.root.manager.loggerDict)):
            for handler in logger.handlers:
                if type(handler) is logging.StreamHandler:
                    handler.setStream(sys.stderr)
        jaxtyping.config.update("jaxtyping_disable", True)  # a command checks no types
        # Its import hook would also rewrite modules that `runpy` runs, and keep that as their ordinary byte code.
        sys.meta_path[:] = [finder for finder in sys.meta_path if not type(finder).__module__.startswith("jaxtyping")]
        exec(arguments[-1], {})
    finally:
        os._exit(0)


spawn = util.spawnv_passfds
vars(util)["spawnv_passfds"] = _spawn


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
