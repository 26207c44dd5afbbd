"""Run directories, one per run and never reused, and the settings of a run: its directory, how often it is saved."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from itda_lightning.errors import InputError
from itda_lightning.machine.atomic_files import explained
from itda_lightning.machine.checks import check_at_least
from itda_lightning.machine.part_files import remove_parts

DICTIONARIES = "dictionaries"
CONFIG = "config.yaml"
METRICS = "metrics.json"
# Files that get a checksum when the run is finished; the others have digests of their own, or are free text.
SIGNED = (CONFIG, "versions.json", METRICS, "metrics.csv", "hparams.yaml")


def is_run(path: str | Path) -> bool:
    """Return True if a path is a run directory."""
    return (Path(path).expanduser() / DICTIONARIES).is_dir()


def output_path(dictionary: str, hook_name: str, name: str, output: str | None = None) -> Path:
    """Choose the file that a command writes about a dictionary.

    It is ``output`` if given, else ``name``: in the dictionary's run directory, if it has one, with the hook point.
    """
    if output is not None:
        return Path(output).expanduser()
    if not is_run(dictionary):
        return Path(name)
    return Path(dictionary).expanduser() / f"{Path(name).stem}-{hook_name}{Path(name).suffix}"


def make_run_directory(given: str | None, runs_directory: str, name: str) -> Path:
    """Make a new directory and return it: ``given``, or the first free ``runs_directory/name-NNN``.

    Raises InputError if ``given`` exists already or the place is not writable.
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


@dataclass(frozen=True)
class RunSettings:
    """The directory of a run, and how often it is saved and validated.

    Args:
        directory: the run directory, which must not exist unless its fit is resumed: then the run continues in the
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

    def checkpoint(self, ckpt_path: str | None) -> str | None:
        """Return the checkpoint to resume from: a path, or the newest one of this run for "last".

        Raises InputError if there is none.
        """
        if ckpt_path != "last":
            if ckpt_path is not None and not Path(ckpt_path).is_file():
                raise InputError(f"ckpt_path: there is no checkpoint {ckpt_path}; they are in a run's checkpoints/")
            return ckpt_path
        directory = self._given_directory()
        if directory is None:
            root, run = Path(self.runs_directory).expanduser(), f"no run named {self.name}"
            pattern = re.compile(re.escape(self.name) + r"-\d{3,}")
        else:
            root, run = directory.parent, f"neither {directory.name} nor a run that resumed it"
            pattern = re.compile(re.escape(directory.name) + r"(-resumed-\d{3,})?")
        runs = [path for path in root.glob("*") if pattern.fullmatch(path.name)]
        for run_directory in runs:
            for place in (run_directory, run_directory / "checkpoints", run_directory / DICTIONARIES):
                remove_parts(place)
        checkpoints = [path for run_directory in runs for path in run_directory.glob("checkpoints/*.ckpt")]
        if not checkpoints:
            raise InputError(f"ckpt_path=last: {run} in {root} has a checkpoint; give the path of one instead")
        return str(max(checkpoints, key=lambda path: path.stat().st_mtime_ns))

    def make_directory(self, resumed: bool) -> Path:
        """Make and return the directory of this run. Raises InputError like ``make_run_directory``."""
        directory = self._given_directory()
        if directory is not None and directory.exists() and resumed:
            return make_run_directory(None, str(directory.parent), f"{directory.name}-resumed")
        return make_run_directory(self.directory, self.runs_directory, self.name)

    def _given_directory(self) -> Path | None:
        return Path(self.directory).expanduser().absolute() if self.directory is not None else None


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
