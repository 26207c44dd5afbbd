"""How every command of this package ends."""

import sys
from collections.abc import Callable

from itda_lightning.errors import InputError

BAD_INPUT = 2
INTERRUPTED = 130


def run_command(command: Callable[[], object]) -> None:
    """Call ``command`` and turn what the user can put right into one line on stderr and an exit code.

    Exit codes: 2 for an ``InputError`` (as for an option that does not parse), 130 for an interrupt from the keyboard.
    Every other exception is a bug and keeps its traceback.
    """
    try:
        command()
    except InputError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(INTERRUPTED)
