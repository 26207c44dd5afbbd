"""Command: verify that files are as they were written (``python -m itda_lightning.verify PATH``)."""

import sys
from collections import Counter

from itda_lightning.machine.command_line import run_command
from itda_lightning.machine.parser import OneLineParser
from itda_lightning.machine.paths import user_path

SOME_DAMAGED = 1
DESCRIPTION = """Verify a run directory, a dictionary, a checkpoint, an export, a cache of activations, a comparison or
the JSON of results: say of each file if it is whole, damaged, unfinished (left by a killed process) or has no digest
(an earlier version or another program wrote it, or it is free text). Exit code 0 if nothing is damaged, 1 if
something is."""


def main(args: list[str] | None = None) -> int:
    """Parse the command line, print one line per file and a summary; return the exit code."""
    name = "python -m itda_lightning.verify"
    parser = OneLineParser(prog=name, usage=f"{name} [--help] path", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("path", type=str, help="a file, or a directory with everything below it")
    path = user_path(parser.parse_args(args).path)
    # After parsing, as in every command: what does the work takes seconds to import.
    from itda_lightning.evaluation.verification import verify

    verdicts = verify(path)
    for verdict in verdicts:
        sys.stdout.write(f"{verdict.state}: {verdict.path}{verdict.reason and f' ({verdict.reason})'}\n")
    counts = Counter(verdict.state for verdict in verdicts)
    sys.stdout.write(f"{', '.join(f'{counts[state]} {state}' for state in ('whole', 'damaged', 'no digest'))}\n")
    return SOME_DAMAGED if counts["damaged"] else 0


if __name__ == "__main__":
    run_command(main)
