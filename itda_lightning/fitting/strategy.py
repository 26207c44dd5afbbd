"""Fit by several processes, each of which holds every dictionary; there are no gradients to average."""

import lightning as L
from lightning.pytorch.strategies import DDPStrategy

from itda_lightning.errors import InputError


class Replicated(DDPStrategy):
    """Lightning's DDP without its wrapper, which averages gradients and refuses modules that have none.

    All processes see the same batches. The language model's rows and the pursuit of a batch are divided among
    them, so the result does not depend on their number.

    Example:
        >>> from itda_lightning import Replicated
        >>> strategy = Replicated()  # lightning.Trainer(strategy=strategy, devices=2, ...)
    """

    def configure_ddp(self) -> None:
        """Leave the module as it is."""


def check_strategy(trainer: L.Trainer) -> None:
    """Raise InputError for a trainer of several processes with another strategy."""
    if trainer.world_size > 1 and not isinstance(trainer.strategy, Replicated):
        raise InputError(
            f"{trainer.world_size} processes fit an ITDA with strategy=itda_lightning.Replicated(), not "
            f"{type(trainer.strategy).__name__}: atoms are chosen, there are no gradients to average"
        )
