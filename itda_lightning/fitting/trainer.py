"""Stop a fit when it is done; fit without a run directory."""

import logging
from typing import Any

import lightning as L

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.fitting.module import ITDA
from itda_lightning.fitting.trainer_options import TRAINER_DEFAULTS, accelerator_of

logger = logging.getLogger(__name__)


class StopWhenDone(L.Callback):
    """End the fit when every dictionary is full, or when none has grown for ``patience`` steps."""

    def __init__(self, patience: int = 100) -> None:
        self.patience = patience
        self._sizes: list[int] = []
        self._unchanged = 0

    def state_dict(self) -> dict[str, Any]:
        return {"sizes": self._sizes, "unchanged": self._unchanged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._sizes, self._unchanged = state_dict["sizes"], state_dict["unchanged"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End at once if the fit is resumed from its last step, after the validation that belongs to it."""
        assert isinstance(pl_module, ITDA)
        validate_where_resumed(trainer, pl_module)
        trainer.should_stop = pl_module.full or self._unchanged >= self.patience

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Compare the sizes with those of the step before."""
        assert isinstance(pl_module, ITDA)
        sizes = [pl_module.dictionary(hook).n_atoms for hook in pl_module.hook_names]
        self._unchanged = self._unchanged + 1 if sizes == self._sizes else 0
        self._sizes = sizes
        if pl_module.full:
            logger.info("every dictionary is full after %s activations", f"{int(pl_module.seen):,}")
            trainer.should_stop = True
        elif self._unchanged >= self.patience:
            logger.info("no new atom in %d steps: the fit ends at %s atoms", self.patience, sizes)
            trainer.should_stop = True


def validate_where_resumed(trainer: L.Trainer, module: ITDA) -> None:
    """Validate at the step that a fit is resumed from, if its checkpoint was written just before that validation."""
    every, validation = trainer.val_check_batch, trainer.fit_loop.epoch_loop.val_loop
    due = isinstance(every, int) and trainer.global_step > 0 and trainer.global_step % max(every, 1) == 0
    if due and not any(entry["seen"] == int(module.seen) for entry in module.history):
        validation.restarting = False  # or it takes its last batches for done
        trainer.validating = True
        validation.run()
        trainer.training = True


def end_on_sigterm(trainer: Any) -> None:
    """Let SIGTERM end a trainer's process at once, as the command does, and those that it started with it.

    Lightning's own handler goes on until the end of a batch, so all through a harvest, and in several processes waits
    in a broadcast in the middle of whatever else they exchange.
    """

    def end(signal_number: int, _: object) -> None:
        if (launcher := trainer.strategy.launcher) is not None:
            launcher.kill(signal_number)

    trainer._signal_connector._sigterm_notifier_fn = end


def plain_trainer(*callbacks: L.Callback, **others: Any) -> L.Trainer:
    """Return a trainer with the command's options that writes nothing; ``others`` are further arguments."""
    options = TRAINER_DEFAULTS | {"accelerator": accelerator_of(TRAINER_DEFAULTS["accelerator"])}
    return L.Trainer(**options, enable_checkpointing=False, callbacks=[StopWhenDone(), *callbacks], **others)


def fit_in_memory(module: ITDA, data: ActivationsDataModule) -> None:
    """Grow the module's dictionaries on the training activations, without checkpoints, logs or validation."""
    plain_trainer(val_check_interval=None, limit_val_batches=0).fit(module, datamodule=data)
