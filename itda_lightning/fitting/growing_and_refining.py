"""The course of a fit: grow, validate, and if asked to refine, name the atoms anew and validate again."""

from collections.abc import Callable

import lightning as L

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.errors import InputError
from itda_lightning.fitting.module import ITDA
from itda_lightning.fitting.refinement import RefinementSettings, refine
from itda_lightning.fitting.relabelling import relabel


def grow_and_refine(
    trainer: L.Trainer,
    module: ITDA,
    data: ActivationsDataModule,
    refinement: RefinementSettings | None,
    checkpoint: str | None = None,
    save: Callable[[], None] | None = None,
    save_every: int = 50,
) -> float:
    """Fit a module in place; return the seconds of refinement.

    Args:
        refinement: how the atoms are refined after growth; None for not at all.
        checkpoint: path of the checkpoint to resume from.
        save: called every ``save_every`` steps of refinement; writes a checkpoint.

    Raises:
        InputError: a checkpoint of a fit that refines, without ``refinement``; or as ``refine`` and ``relabel``.
    """
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
    if not module.refinements:
        module.calibrate_l0()
        trainer.validate(module, datamodule=data, verbose=False)
    if refinement is None:
        if module.refinements:
            raise InputError("the checkpoint is of a fit that refines its atoms: resume with its own config.yaml")
        return 0.0
    seconds = refine(module, data, refinement, save, save_every)
    module.calibrate_l0()
    seconds += relabel(module, data)
    trainer.validate(module, datamodule=data, verbose=False)
    return seconds
