"""A fit without a run directory: no checkpoints, no logs, no validation."""

import lightning as L
import torch

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.fitting.module import ITDA
from itda_lightning.fitting.trainer import StopWhenDone

PATIENCE = 100


def fit_in_memory(module: ITDA, data: ActivationsDataModule) -> None:
    """Grow the module's dictionaries on the training activations of ``data``, until they are full or grow no more.

    Raises:
        InputError: as ``ITDA`` and ``ActivationsDataModule``.
    """
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cuda" if torch.cuda.is_available() else "cpu",  # Apple's GPUs have no float64
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[StopWhenDone(PATIENCE)],
    )
    trainer.fit(module, datamodule=data)
