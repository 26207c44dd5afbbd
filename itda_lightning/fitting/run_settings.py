"""Settings of a run: its directory, its checkpoints and validations, and the checkpoint it resumes."""

import re
from dataclasses import dataclass
from pathlib import Path

from itda_lightning.errors import InputError
from itda_lightning.fitting.run_directory import make_run_directory
from itda_lightning.machine.checks import check_at_least


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

        Raises:
            InputError: there is no such checkpoint.
        """
        if ckpt_path is None:
            return None
        if ckpt_path != "last":
            if not Path(ckpt_path).is_file():
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
