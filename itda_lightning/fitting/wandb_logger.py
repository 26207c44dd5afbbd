"""Weights & Biases: a logger that never stops a fit, a table of atoms in context, the dictionary as an artifact."""

import importlib.util
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger

from itda_lightning.dictionary.dictionary import Dictionary

logger = logging.getLogger(__name__)

ATOMS_IN_TABLE = 1000
BEFORE, AFTER = 200, 60


def make_wandb_logger(
    project: str, run_directory: Path, otherwise: str = "metrics go to CSV only"
) -> WandbLogger | None:
    """Return a logger, online with a key and a network, else offline; None with a warning if W&B cannot be used.

    Args:
        project: name of the W&B project.
        run_directory: where the run's files go; names the run.
        otherwise: end of the warning: the consequence of a run without W&B.
    """
    if importlib.util.find_spec("wandb") is None:
        logger.warning("wandb is not installed: %s (pip install 'itda-lightning[wandb]')", otherwise)
        return None
    offline = os.environ.get("WANDB_MODE", "online") != "online" or not _logged_in()
    try:
        wandb_logger = WandbLogger(project=project, name=run_directory.name, save_dir=run_directory, offline=offline)
        _ = wandb_logger.experiment  # connects now, so that failures come before the fit
    except Exception as error:  # no failure of W&B may stop a fit
        logger.warning("W&B cannot be used (%s): %s", error, otherwise)
        return None
    if offline:
        logger.info("W&B is offline; to upload the run later: wandb sync %s/wandb/offline-run-*", run_directory)
    return wandb_logger


def log_comparison_run(
    project: str, directory: Path, facts: Mapping[str, str], content: Callable[[], dict[str, Any]]
) -> None:
    """Log a finished comparison as a run named after its directory; problems are warnings.

    Args:
        project: name of the W&B project.
        directory: of the comparison; names the run.
        facts: the run's config.
        content: called once there is a run; returns key -> table, plot or page to log.
    """
    wandb_logger = make_wandb_logger(project, directory, otherwise="the comparison is not logged there")
    if wandb_logger is None:
        return
    try:
        # As a context, so that the run ends whatever happens and this process can start another.
        with wandb_logger.experiment as run:
            run.config.update(dict(facts))
            run.log(content())
    except Exception as error:  # the comparison is finished and saved
        logger.warning("could not log the comparison to W&B: %s", error)


def log_dictionary(wandb_logger: WandbLogger, dictionary: Dictionary, directory: Path) -> None:
    """Log a table of the first atoms with their context, and the saved dictionary as an artifact."""
    import wandb

    hook = dictionary.metadata["hook_name"]
    try:
        cosines = None if dictionary.cosines is None else dictionary.cosines.tolist()
        column = [] if cosines is None else ["cosine"]  # with the source's activation
        table = wandb.Table(columns=["atom", "before", "token", "after", *column, "document", "position"])
        for atom, prompt in enumerate((dictionary.prompts or ())[:ATOMS_IN_TABLE]):
            document, _, position, *_ = dictionary.source_table[atom].tolist()
            cosine = [] if cosines is None else [cosines[atom]]
            context = (prompt.before[-BEFORE:], prompt.token, prompt.after[:AFTER])
            table.add_data(atom, *context, *cosine, document, position)
        wandb_logger.experiment.log({f"atoms/{hook}": table})
        artifact = wandb.Artifact(f"itda-{hook}".replace("/", "."), type="dictionary", metadata={"hook_name": hook})
        artifact.add_dir(str(directory))
        wandb_logger.experiment.log_artifact(artifact)
    except Exception as error:  # the fit is finished and saved
        logger.warning("could not log the dictionary of %s to W&B: %s", hook, error)


def _logged_in() -> bool:
    import wandb

    try:
        return bool(wandb.login(prompt=False))
    except Exception as error:  # no network, an expired or malformed key
        logger.warning("W&B login failed (%s): logging offline", error)
        return False
