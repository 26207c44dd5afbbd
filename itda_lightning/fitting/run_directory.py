"""Run directories: one per run, never reused."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from itda_lightning.errors import InputError
from itda_lightning.machine.atomic_files import explained

DICTIONARIES = "dictionaries"
CONFIG = "config.yaml"
METRICS = "metrics.json"


def is_run(path: str | Path) -> bool:
    """Return True if a path is a run directory."""
    return (Path(path).expanduser() / DICTIONARIES).is_dir()


def output_path(dictionary: str, hook_name: str, name: str, output: str | None = None) -> Path:
    """Choose the file that a command writes about a dictionary.

    Args:
        dictionary: path or release of the dictionary.
        hook_name: its hook point.
        name: the default name of the file.
        output: the requested path.

    Returns:
        ``output`` if given, STEM-<hook name>.SUFFIX in the dictionary's run directory, or ``name`` outside a run.
    """
    if output is not None:
        return Path(output).expanduser()
    if not is_run(dictionary):
        return Path(name)
    stem, suffix = Path(name).stem, Path(name).suffix
    return Path(dictionary).expanduser() / f"{stem}-{hook_name}{suffix}"


def make_run_directory(given: str | None, runs_directory: str, name: str) -> Path:
    """Make a new directory and return it: ``given``, or the first free ``runs_directory/name-NNN``.

    Raises:
        InputError: ``given`` exists already, or the place is not writable.
    """
    if given is not None:
        path = Path(given).expanduser()
        with explained(path, "making the run directory"):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.mkdir()
            except FileExistsError as error:
                raise InputError(f"the run directory {path} exists already: a run never overwrites another") from error
        return path
    root = Path(runs_directory).expanduser()
    with explained(root, "making a run directory in"):
        root.mkdir(parents=True, exist_ok=True)
        for number in range(1, 100_000):
            path = root / f"{name}-{number:03d}"
            try:
                path.mkdir()  # of two runs started together only one succeeds here
            except FileExistsError:
                continue
            return path
    raise InputError(f"{root} is full of runs named {name}: choose another run.name")


@contextmanager
def logged(directory: Path) -> Iterator[None]:
    """Log to ``fit.log`` of the run directory as well, including how the block ends."""
    with explained(directory, "writing the log in"):
        log = logging.FileHandler(directory / "fit.log", encoding="utf-8")
    log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    package = logging.getLogger("itda_lightning")
    package.addHandler(log)
    try:
        yield
    except BaseException as error:
        package.error("the fit ended early: %s: %s", type(error).__name__, error)
        raise
    finally:
        package.removeHandler(log)
        log.close()
