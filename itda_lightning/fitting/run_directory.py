"""Run directories, one per run and never reused, and the settings of a run: its directory, how often it is saved."""

import json
import logging
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itda_lightning.errors import InputError
from itda_lightning.machine.atomic_files import explained, new_directory, write_text
from itda_lightning.machine.checks import check_at_least
from itda_lightning.machine.command_line import Terminated
from itda_lightning.machine.part_files import remove_parts
from itda_lightning.machine.paths import text_without_home, user_path

logger = logging.getLogger(__name__)

DICTIONARIES = "dictionaries"
CHECKPOINTS = "checkpoints"
UNFINISHED = "unfinished.json"
CONFIG = "config.yaml"
METRICS = "metrics.json"
LOG = "fit.log"
# Files that get a checksum when the run is finished; so does the log, which earlier versions left out. The
# others have digests of their own.
SIGNED = (CONFIG, "versions.json", METRICS, "metrics.csv", "hparams.yaml")


def is_run(path: str | Path) -> bool:
    """Return True if a path is a run directory."""
    return (user_path(path) / DICTIONARIES).is_dir()


def output_path(dictionary: str, hook_name: str, name: str, output: str | None = None) -> Path:
    """Choose the file that a command writes about a dictionary.

    It is ``output`` if given, else ``name``: in the dictionary's run directory, if it has one, with the hook point.
    """
    if output is not None:
        return user_path(output)
    if not is_run(dictionary):
        return Path(name)
    return user_path(dictionary) / f"{Path(name).stem}-{hook_name}{Path(name).suffix}"


def make_run_directory(given: str | None, runs_directory: str, name: str) -> Path:
    """Make a new directory and return it: ``given``, or the first free ``runs_directory/name-NNN``.

    Raises InputError if ``given`` exists already or the place is not writable.
    """
    if given is not None:
        path = user_path(given)
        with explained(path, "making the run directory"):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.mkdir()
            except FileExistsError as error:
                raise InputError(
                    f"the run directory {path} exists already: a run never overwrites another; {_way_on(path)}"
                ) from error
        return path
    root = user_path(runs_directory)
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


def _way_on(path: Path) -> str:
    """Say what to do about a directory in which a run was to start."""
    if (path / METRICS).is_file():
        return "it is finished: choose another run.directory"
    if any(path.glob(f"{CHECKPOINTS}/*.ckpt")):
        return "--ckpt_path last resumes it in a directory beside it"
    if (path / CONFIG).is_file():
        return (
            "it has no checkpoint yet: --ckpt_path last starts the fit in a directory beside it, or remove it if no "
            "process is at work in it"
        )
    return "choose another run.directory"


@contextmanager
def result_directory(given: str, arguments: Mapping[str, Any]) -> Iterator[Path]:
    """Make a directory for the results of one command and yield it; a killed command is given its own again.

    While the block runs, a file with ``arguments`` marks the directory, by which it is known after a kill. Dictionaries
    of the killed command are removed, to be written again; if the block fails, nothing is left of a directory that
    holds nothing. Raises InputError if ``given`` exists and is not of an unfinished command with these arguments.
    """
    path = user_path(given)
    mark, text = path / UNFINISHED, json.dumps(dict(arguments), sort_keys=True)
    with explained(path, "making the run directory"):
        if mark.is_file() and mark.read_text(encoding="utf-8") == text:
            logger.info("going on in %s, which the same command began", path)
            shutil.rmtree(path / DICTIONARIES, ignore_errors=True)
        elif path.exists():
            raise InputError(
                f"the run directory {path} exists already: a run never overwrites another; choose another output, or "
                "call the command that began it again"
                if mark.is_file()
                else f"the run directory {path} exists already: a run never overwrites another; choose another output"
            )
        else:
            with new_directory(path) as made:
                write_text(made / UNFINISHED, text)
    try:
        yield path
    except (Exception, KeyboardInterrupt, Terminated):
        if [entry.name for entry in path.iterdir()] == [UNFINISHED]:
            shutil.rmtree(path, ignore_errors=True)
        raise
    mark.unlink(missing_ok=True)


@dataclass(frozen=True)
class RunSettings:
    """The directory of a run, and how often it is saved and validated.

    Args:
        directory: the run directory, which must not exist unless ckpt_path is given: then the run continues in the
            first free DIRECTORY-resumed-NNN. Null for the first free runs_directory/name-NNN.
        runs_directory: parent of the run directories.
        name: name of the run.
        checkpoint_every: steps between checkpoints.
        validate_every: steps between validations on held-out documents.
        patience: steps without a new atom after which the fit ends.
        wandb_project: log to this Weights & Biases project; null for CSV only.
    """

    directory: str | None = None
    runs_directory: str = "runs"
    name: str = "itda"
    checkpoint_every: int = 50
    validate_every: int = 50
    patience: int = 100
    wandb_project: str | None = None

    def __post_init__(self) -> None:
        fields = ("checkpoint_every", "validate_every", "patience")
        check_at_least(1, {f"run.{name}": getattr(self, name) for name in fields})
        if not self.name.strip() or "/" in self.name:
            raise InputError(f"run.name must be the name of a directory without a slash, got {self.name!r}")
        user_path(f"{self.name}-resumed-00001", "run.name")
        user_path(self.runs_directory, "run.runs_directory")
        if self.directory is not None:
            user_path(f"{self.directory}-resumed-00001", "run.directory")

    def checkpoint(self, ckpt_path: str | None) -> str | None:
        """Return the checkpoint to resume from: a path, or the newest one of this run for "last".

        None if the run starts: without ``ckpt_path``, and with "last" if no run of this name has a checkpoint yet, so
        that one command line starts a run and takes it up again. Raises InputError for a path that is none.
        """
        if ckpt_path is None:
            return None
        if ckpt_path != "last":
            path = user_path(ckpt_path, "ckpt_path")
            if not path.is_file():
                raise InputError(f"ckpt_path: there is no checkpoint {ckpt_path}; they are in a run's checkpoints/")
            return str(path)
        directory = self._given_directory()
        if directory is None:
            root, run = user_path(self.runs_directory), f"no run named {self.name}"
            pattern = re.compile(re.escape(self.name) + r"-\d{3,}")
        else:
            root, run = directory.parent, f"neither {directory.name} nor a run that resumed it"
            pattern = re.compile(re.escape(directory.name) + r"(-resumed-\d{3,})?")
        runs = [path for path in root.glob("*") if pattern.fullmatch(path.name)]
        for run_directory in runs:
            for place in (run_directory, run_directory / CHECKPOINTS, run_directory / DICTIONARIES):
                remove_parts(place)
        checkpoints = [path for run_directory in runs for path in run_directory.glob(f"{CHECKPOINTS}/*.ckpt")]
        if not checkpoints:
            logger.info("ckpt_path=last: %s in %s has a checkpoint, so the fit starts from the beginning", run, root)
            return None
        return str(max(checkpoints, key=lambda path: path.stat().st_mtime_ns))

    def make_directory(self, resumed: bool) -> Path:
        """Make and return the directory of this run. Raises InputError like ``make_run_directory``."""
        directory = self._given_directory()
        if directory is not None and directory.exists() and resumed:
            return make_run_directory(None, str(directory.parent), f"{directory.name}-resumed")
        return make_run_directory(self.directory, self.runs_directory, self.name)

    def _given_directory(self) -> Path | None:
        return user_path(self.directory).absolute() if self.directory is not None else None


@contextmanager
def removed_if_nothing_began(directory: Path) -> Iterator[None]:
    """Remove a new run directory if the block is refused or interrupted before the first checkpoint."""
    try:
        yield
    except (InputError, KeyboardInterrupt, Terminated):
        if not any(directory.glob(f"{CHECKPOINTS}/*.ckpt")) and not (directory / DICTIONARIES).exists():
            shutil.rmtree(directory, ignore_errors=True)
        raise


@contextmanager
def logged(directory: Path) -> Iterator[None]:
    """Log to ``fit.log`` of the run directory as well, including how the block ends.

    A bug ends the log with its traceback. A full disk does not end the fit: it goes on without the log.
    """
    with explained(directory, "writing the log in"):
        log = RunLog(directory / LOG, encoding="utf-8")
    log.setFormatter(LogFormat("%(asctime)s %(levelname)s %(message)s"))
    package = logging.getLogger("itda_lightning")
    package.addHandler(log)
    try:
        yield
    except BaseException as error:
        # Into the file only: the command says it on the terminal.
        bug = None if isinstance(error, InputError | KeyboardInterrupt | Terminated) else sys.exc_info()
        arguments = (type(error).__name__, error)
        record = package.makeRecord(
            package.name, logging.ERROR, __file__, 0, "the fit ended early: %s: %s", arguments, bug
        )
        log.handle(record)
        raise
    finally:
        package.removeHandler(log)
        log.close()


class LogFormat(logging.Formatter):
    """The format of a log that says ``~`` for the home directory."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line or lines of a record."""
        return text_without_home(super().format(record))


class RunLog(logging.FileHandler):
    """A log file whose failures are told once, in one line, instead of by a traceback per message."""

    told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802  logging's
        """Tell the first failure."""
        if not self.told:
            self.told = True
            reason = sys.exc_info()[1]
            sys.stderr.write(f"cannot write {self.baseFilename} ({reason}): the run goes on without its log\n")

    def close(self) -> None:
        """Close the file, even if its last lines cannot be written."""
        with suppress(OSError):
            super().close()
