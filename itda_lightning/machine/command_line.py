"""Start and end every command of this package in the same way."""

import logging
import sys
from collections.abc import Callable

from jsonargparse import auto_cli

from itda_lightning.errors import InputError


def start_logging(level: int = logging.INFO) -> None:
    """Log this package's messages from ``level`` on to stderr, and those of others from warnings on."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("itda_lightning").setLevel(level)


def run_function(function: Callable[..., object], name: str, args: list[str] | None = None) -> None:
    """Call ``function`` with the options of the command line, which its docstring explains; None for this process's."""
    start_logging()
    auto_cli(function, args, as_positional=False, prog=f"python -m itda_lightning.{name}")


def run_command(command: Callable[[], object]) -> None:
    """Call ``command`` and turn what the user can put right into one line on stderr and an exit code.

    Exit codes: what ``command`` returns if that is a number, 2 for an ``InputError`` (as for an option that does not
    parse), 130 for an interrupt from the keyboard. Every other exception is a bug and keeps its traceback.
    """
    try:
        result = command()
    except InputError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    if isinstance(result, int):
        sys.exit(result)
