"""The dictionaries of the models that have none yet: fitted in one pass over all hook points, and kept for the next run."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from itda_lightning.across_models.compared import ComparedModel
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.facts import settings
from itda_lightning.fitting.fit_in_memory import fit_in_memory
from itda_lightning.fitting.identity import fit_identity
from itda_lightning.fitting.module import ITDA
from itda_lightning.fitting.run_directory import DICTIONARIES
from itda_lightning.machine.made_once import hash_of, made_once

logger = logging.getLogger(__name__)


def fit_dictionaries(model: ComparedModel, fit: Mapping[str, Any], made: Path) -> None:
    """Give the model its dictionaries: those that ``made`` holds of the same fit, else new ones, which it holds then.

    Args:
        model: whose activations are in its cache.
        fit: arguments of ``ITDA``.
        made: a directory of fits, each named by all that decides it.

    Raises:
        InputError: as ``ITDA``.
    """
    module = ITDA(**fit)
    identity = fit_identity(settings(module.hparams), model.data) | {"data.seed": model.data.hparams["seed"]}
    place = made / hash_of(identity)

    def make(directory: Path) -> None:
        fit_in_memory(module, model.data)
        for hook in model.hook_names:
            module.finished_dictionary(hook).save(directory / DICTIONARIES / hook)

    if place.exists():
        logger.info("%s: dictionaries taken over from %s", model.name, place)
    else:
        logger.info("%s: fitting dictionaries at %d hook points", model.name, len(model.hook_names))
    made_once(place, make)
    model.dictionaries = {hook: Dictionary.load(place / DICTIONARIES / hook) for hook in model.hook_names}
