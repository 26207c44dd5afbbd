"""The callback that ends a fit when it is done."""

import logging
from typing import Any

import lightning as L

from itda_lightning.fitting.module import ITDA

logger = logging.getLogger(__name__)


class StopWhenDone(L.Callback):
    """Ends the fit when every dictionary is full, or when none has grown for some steps.

    Args:
        patience: steps without a new atom after which the fit ends.
    """

    def __init__(self, patience: int = 100) -> None:
        self.patience = patience
        self._sizes: list[int] = []
        self._unchanged = 0

    def state_dict(self) -> dict[str, Any]:
        """What a resumed fit goes on from."""
        return {"sizes": self._sizes, "unchanged": self._unchanged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""
        self._sizes, self._unchanged = state_dict["sizes"], state_dict["unchanged"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A fit that is resumed from its last step is done already."""
        assert isinstance(pl_module, ITDA)
        trainer.should_stop = pl_module.full or self._unchanged >= self.patience

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Look at the sizes after each step."""
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
