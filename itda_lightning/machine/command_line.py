"""Start and end every command of this package in the same way: whatever ends it early is one line, no traceback."""

import errno
import gc
import logging
import os
import select
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jsonargparse import auto_cli

from itda_lightning.errors import InputError
from itda_lightning.machine.first_imports import unimportable
from itda_lightning.machine.parser import OneLineParser

ISSUES = "https://github.com/itda-lightning/itda-lightning/issues"
# Set to 1, a bug shows its traceback on stderr instead of keeping it in a file.
SHOW_TRACEBACK = "ITDA_LIGHTNING_TRACEBACK"

BAD_INPUT, BUG, INTERRUPTED, TERMINATED, NO_READER = 2, 1, 130, 143, 141
# Loggers that advertise other products and report each checkpoint in the middle of progress bars.
ADVERTISERS = ("lightning.pytorch", "lightning.fabric", "lightning_utilities")
# It says which of the processes that Lightning started has ended, before it ends all others.
OF_DEATHS = "lightning.fabric.strategies.launchers.subprocess_script"


class Terminated(BaseException):
    """The process was asked to end (SIGTERM); like ``KeyboardInterrupt``, no ``except Exception`` stops it."""


def start_logging(level: int = logging.INFO) -> None:
    """Log this package's messages from ``level`` on to stderr, and those of others from warnings on."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("itda_lightning").setLevel(level)
    for name in ADVERTISERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger(OF_DEATHS).setLevel(logging.INFO)


def run_function(function: Callable[..., object], name: str, args: list[str] | None = None) -> None:
    """Call ``function`` with the options of the command line, which its docstring explains; None for this process's."""
    start_logging()
    auto_cli(
        function,
        args,
        as_positional=False,
        prog=f"python -m itda_lightning.{name}",
        allow_abbrev=False,
        parser_class=OneLineParser,
    )


def run_command(command: Callable[[], object]) -> None:
    """Call ``command`` and turn whatever ends it early into one line on stderr and an exit code.

    Exit codes: what ``command`` returns if that is a number; 2 for an ``InputError`` and for what the machine refuses
    (a full disk, too little memory, a file without permission), as for an option that does not parse; 130 for an
    interrupt from the keyboard, 143 for SIGTERM, 141 if nobody reads the output. Every other exception is a bug: the
    line says where to report it, the exit code is 1, and the traceback is in the file that it names, or on stderr if
    ``ITDA_LIGHTNING_TRACEBACK=1``.
    """
    gc.enable()  # after the imports: see ``pause_collection``
    try:
        with _ended_by_sigterm():
            result = command()
            sys.stdout.flush()
    except (KeyboardInterrupt, Terminated) as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        _say("interrupted" if interrupted else "terminated: what was written until now is whole")
        sys.exit(INTERRUPTED if interrupted else TERMINATED)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            sys.exit(NO_READER)
        if (refusal := refusal_of(error)) is not None:
            _say(f"error: {refusal}")
            sys.exit(BAD_INPUT)
        _say(_bug(error))
        sys.exit(BUG)
    if isinstance(result, int):
        sys.exit(result)


def refusal_of(error: BaseException) -> str | None:
    """Return what a user can do about an exception, in words; None for a bug."""
    if isinstance(error, InputError):
        return str(error)
    if (unimported := unimportable(error) if isinstance(error, ImportError) else None) is not None:
        return unimported
    # These import torch, for which a list of commands cannot wait.
    from itda_lightning.machine.memory import is_out_of_memory
    from itda_lightning.machine.processes import lost_others

    if is_out_of_memory(error):
        return (
            f"not enough memory ({str(error) or type(error).__name__}): lower data.model_batch_size, data.batch_size, "
            "model.memory_budget, model.max_atoms or model.k, or give the process more"
        )
    if isinstance(error, OSError):
        where = f" {error.filename}" if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"no space left on the device{where and f' of{where}'}: free some, run again; older files are whole"
        reason = error.strerror or str(error) or type(error).__name__
        return (
            f"the system refuses{where or ' an operation'}: {reason}; check the path, its permissions and the network"
        )
    return lost_others(error) or unimportable(error)


def _bug(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"
    line = f"error: this is a bug of itda_lightning ({text[:500]}): please report it at {ISSUES}"
    if os.environ.get(SHOW_TRACEBACK, "0") not in ("", "0"):
        traceback.print_exc()
        return line
    with suppress(OSError):
        descriptor, name = tempfile.mkstemp(prefix="itda_lightning-", suffix="-traceback.txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
            traceback.print_exc(file=file)
        return f"{line} with {Path(name)}, which holds the traceback"
    return f"{line}; {SHOW_TRACEBACK}=1 shows the traceback"


def _nobody_reads() -> bool:
    """Return True if stdout is a pipe that its reader has closed; what is left of the output then goes nowhere."""
    with suppress(OSError, ValueError):  # no file, or closed
        pipe = select.poll()
        pipe.register(sys.stdout.fileno(), 0)
        if any(event & select.POLLERR for _, event in pipe.poll(0)):
            # Python flushes once more when it ends, and would complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return True
    return False


def _say(text: str) -> None:
    """Write one line to stderr, if that is still open."""
    with suppress(OSError, ValueError):
        sys.stderr.write(f"{' '.join(text.split())}\n")


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Raise ``Terminated`` on SIGTERM, so that files are closed and the run says how to go on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
