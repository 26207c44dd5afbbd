"""The same fit on the same tokens in another order: how far two dictionaries of one model agree.

This is the noise floor of a comparison: two fits of the same model differ only by the order of the tokens.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from itda_lightning.activations.batches import ActivationBatch, ActivationLoader
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.text.rows import choice
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.growth import GROWTH_POLICIES, GrowthRule
from itda_lightning.pursuit import judging


def check_regrowable(name: str, dictionary: Dictionary) -> None:
    """Raise InputError for a dictionary without the facts of its fit that growing it again needs."""
    fit = dictionary.metadata.get("fit") or {}
    if dictionary.metadata.get("threshold") is None or "max_atoms" not in fit:
        raise InputError(
            f"{name} does not say how it was fitted, so it cannot be grown in another order: set orders to 0"
        )
    if fit["energy_exponent"] != 1 and dictionary.metadata.get("typical_energy") is None:
        raise InputError(
            f"{name} was fitted with energy_exponent {fit['energy_exponent']}, whose typical energy is not kept: "
            "set orders to 0"
        )


def reordered_batches(data: ActivationsDataModule, seed: int) -> ActivationLoader:
    """Return the training activations with the rows in an order drawn with ``seed``, from a complete cache."""
    n_rows = len(data.rows("train"))
    return data.reordered(choice(n_rows, n_rows, seed), data.hparams["batch_size"])


def regrown(
    dictionaries: Mapping[str, Dictionary], batches: Iterable[ActivationBatch]
) -> dict[str, Int[Tensor, "_ 6"]]:
    """Grow the dictionaries of hook points again on other batches, with their settings, bias and threshold.

    They must pass ``check_regrowable``. Returns hook point -> sources, columns as in ``sources.COLUMNS``.
    """
    grown = {}
    for hook, dictionary in dictionaries.items():
        fit = dictionary.metadata["fit"]
        settings = {name: fit[name] for name in ("k", "pursuit", "nonnegative")}
        nothing = torch.zeros(0, dictionary.d_in)
        grown[hook] = Dictionary(nothing, dictionary.bias, **settings, capacity=fit["max_atoms"])
    for batch in batches:
        for hook, dictionary in grown.items():
            if dictionary.n_atoms < dictionary.capacity:
                _grow(dictionary, batch, hook, dictionaries[hook].metadata)
    return {hook: dictionary.source_table for hook, dictionary in grown.items()}


def _grow(dictionary: Dictionary, batch: ActivationBatch, hook_name: str, metadata: Mapping[str, Any]) -> None:
    fit = metadata["fit"]
    x, table = batch.usable(hook_name, fit["bad_activations"])
    if not len(x):
        return
    dictionary.prepared().build_gram()
    rule = GrowthRule(
        dictionary.k,
        judging(dictionary.pursuit),
        dictionary.nonnegative,
        metadata["threshold"],
        fit["energy_exponent"],
        metadata.get("typical_energy") or 1.0,
    )
    step = GROWTH_POLICIES[fit["growth"]](dictionary.centre(x), dictionary.prepared(), rule)
    dictionary.append(step.atoms, table[step.accepted])
