"""Fit by several processes, each of which holds every dictionary; there are no gradients to average."""

from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.strategies import DDPStrategy

from itda_lightning.errors import InputError
from itda_lightning.machine.processes import process_timeout


class Replicated(DDPStrategy):
    """Lightning's DDP without its wrapper, which averages gradients and refuses modules that have none.

    All processes see the same batches. The language model's rows and the pursuit of a batch are divided among
    them, so the result does not depend on their number.

    Args:
        timeout: how long a process waits for the others before it ends; None for ``ITDA_LIGHTNING_TIMEOUT`` seconds,
            by default 5 minutes.
        options: any others of ``DDPStrategy``.

    Example:
        >>> from itda_lightning import Replicated
        >>> strategy = Replicated()  # lightning.Trainer(strategy=strategy, devices=2, ...)
    """

    def __init__(self, timeout: timedelta | None = None, **options: Any) -> None:
        super().__init__(timeout=process_timeout() if timeout is None else timeout, **options)

    def configure_ddp(self) -> None:
        """Leave the module as it is."""


def check_strategy(trainer: L.Trainer) -> None:
    """Raise InputError for a trainer of several processes with another strategy."""
    if trainer.world_size > 1 and not isinstance(trainer.strategy, Replicated):
        raise InputError(
            f"{trainer.world_size} processes fit an ITDA with strategy=itda_lightning.Replicated(), not "
            f"{type(trainer.strategy).__name__}: atoms are chosen, there are no gradients to average"
        )
