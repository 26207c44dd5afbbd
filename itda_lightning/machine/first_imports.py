"""Explain in one line that a package which all commands import is missing, too old or broken.

Python imports the package of a module before the module, so nothing of a command's own runs yet.
"""

import gc
import itertools
import re
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType

PACKAGE = "itda_lightning"
BAD_INPUT, INTERRUPTED = 2, 130


def explain_imports() -> None:
    """Let what ends the imports of a command, and of nothing else, be one line and an exit code."""
    if program().partition(".")[0] in ("itda", PACKAGE):
        sys.excepthook = _in_one_line
        pause_collection()


def pause_collection() -> None:
    """Collect no garbage until ``run_command``: imports leave none, and looking for it slows them down."""
    gc.disable()


def unimportable(error: BaseException) -> str | None:
    """Return what a user can do about a package that cannot be imported; None if that is not what an error is of."""
    problems: list[str] = []
    with suppress(Exception):  # of what it imports, too
        from itda_lightning.machine.installation import required

        problems = [f"{package.name}: {package.problem}" for package in required() if package.problem]
    foreign = isinstance(error, ImportError) and not (error.name or "").startswith(PACKAGE)
    if not foreign and not problems:
        return None
    remedy = "reinstall it, in an environment of its own if others need other versions"
    if problems:
        remedy = f"{'; '.join(problems)}; run `pip install --upgrade itda-lightning`"
    cause = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return f"a package that this needs cannot be imported ({cause}): {remedy}, and see `itda doctor`"


def program() -> str:
    """Return the name of the module or the script that this process runs, while its package is imported."""
    if sys.argv[:1] != ["-m"]:
        return Path((sys.argv or ["."])[0] or ".").stem
    for option, following in itertools.pairwise([*sys.orig_argv[1:], ""]):
        if found := re.fullmatch(r"-[bBdEiIOPqsSuvx]*m(.*)", option):
            return found[1] or following
    return ""


def _in_one_line(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if kind is KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(INTERRUPTED)
    text = unimportable(error)
    if text is None:
        sys.__excepthook__(kind, error, traceback)
        return
    sys.stderr.write(f"error: {text}\n")
    sys.exit(BAD_INPUT)
