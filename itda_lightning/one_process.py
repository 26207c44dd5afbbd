"""A fit is one process: each atom depends on all before it."""

import lightning as L

from itda_lightning.errors import InputError


def refuse_several_devices(trainer: L.Trainer) -> None:
    """Raises InputError for a trainer of several processes."""
    if trainer.world_size > 1:
        raise InputError(f"an ITDA is fitted by one process, not {trainer.world_size}: set trainer.devices=1")
