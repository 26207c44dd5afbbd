"""Know if this machine can log to Weights & Biases, and if it can do so online."""

import importlib.util
import logging
import os
from pathlib import Path
from typing import Literal

logger = logging.getLogger(__name__)


def wandb_mode(directory: Path, otherwise: str) -> Literal["online", "offline"] | None:
    """Return "online" with a key and a network, else "offline"; None if W&B is disabled or, with a warning, missing.

    An offline run is uploaded from ``directory``; ``otherwise`` says in the warning what happens without W&B.
    """
    if os.environ.get("WANDB_MODE") == "disabled" or os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1"):
        logger.info("W&B is disabled in the environment: %s", otherwise)
        return None
    if importlib.util.find_spec("wandb") is None:
        logger.warning("wandb is not installed: %s (pip install 'itda-lightning[wandb]')", otherwise)
        return None
    if os.environ.get("WANDB_MODE", "online") in ("online", "run", "shared") and _logged_in():
        return "online"
    logger.info("W&B is offline; to upload the run later: wandb sync %s/wandb/offline-run-*", directory)
    return "offline"


def _logged_in() -> bool:
    import wandb

    try:
        return bool(wandb.login(prompt=False))
    except Exception as error:  # no network, an expired key, a key of the wrong length: all mean offline
        logger.warning("W&B login failed (%s): logging offline", error)
        return False
