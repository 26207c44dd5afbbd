"""Weights & Biases: a logger that never stops a fit, a table of atoms in context, the dictionary as an artifact."""

import logging
from pathlib import Path

from lightning.pytorch.loggers import WandbLogger

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.machine.wandb_mode import wandb_mode

logger = logging.getLogger(__name__)

ATOMS_IN_TABLE = 1000
BEFORE, AFTER = 200, 60


def make_wandb_logger(project: str, run_directory: Path) -> WandbLogger | None:
    """Return a logger of the run, whose directory names it; None, with a warning, if W&B cannot be used."""
    mode = wandb_mode(run_directory, otherwise="metrics go to CSV only")
    if mode is None:
        return None
    try:
        wandb_logger = WandbLogger(
            project=project, name=run_directory.name, save_dir=run_directory, offline=mode == "offline"
        )
        _ = wandb_logger.experiment  # connects now, so that failures come before the fit
    except Exception as error:  # no failure of W&B may stop a fit
        logger.warning("W&B cannot be used (%s): metrics go to CSV only", error)
        return None
    return wandb_logger


def log_dictionary(wandb_logger: WandbLogger, dictionary: Dictionary, directory: Path) -> None:
    """Log a table of the first atoms with their context, and the saved dictionary as an artifact."""
    import wandb

    hook = dictionary.metadata["hook_name"]
    try:
        cosines = None if dictionary.label_cosines is None else dictionary.label_cosines.tolist()
        column = [] if cosines is None else ["cosine"]  # with the activation of the token
        table = wandb.Table(columns=["atom", "before", "token", "after", *column, "document", "position"])
        for atom, prompt in enumerate((dictionary.label_prompts or ())[:ATOMS_IN_TABLE]):
            document, _, position, *_ = dictionary.labels[atom].tolist()
            cosine = [] if cosines is None else [cosines[atom]]
            context = (prompt.before[-BEFORE:], prompt.token, prompt.after[:AFTER])
            table.add_data(atom, *context, *cosine, document, position)
        wandb_logger.experiment.log({f"atoms/{hook}": table})
        artifact = wandb.Artifact(f"itda-{hook}".replace("/", "."), type="dictionary", metadata={"hook_name": hook})
        artifact.add_dir(str(directory))
        wandb_logger.experiment.log_artifact(artifact)
    except Exception as error:  # the fit is finished and saved
        logger.warning("could not log the dictionary of %s to W&B: %s", hook, error)
