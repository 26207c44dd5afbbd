"""Codes of varying length: k atoms on average, more for activations that need more."""

import logging

from jaxtyping import Float
from torch import Tensor

from itda_lightning.activations.bad import usable
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.module import ITDA

logger = logging.getLogger(__name__)

MOST = 2  # times the average, atoms of a code
BISECTIONS = 12
SAMPLE = 4096  # activations that the error threshold is found on


def vary_codes(module: ITDA, data: ActivationsDataModule) -> None:
    """``vary_k`` for every dictionary of a fitted module, on a sample of the training activations.

    Raises:
        InputError: as ``vary_k``, or a sample without usable activations.
    """
    batch = data.calibration_batch(SAMPLE)
    for hook in module.hook_names:
        dictionary = module.dictionary(hook)
        x = batch.activations[hook].to(dictionary.bias.device)
        k, l0 = dictionary.k, vary_k(dictionary, x[usable(x, batch.table, hook, "skip")])
        logger.info(
            "codes at %s have %.2f atoms on average and at most %d instead of %d: they end when %.4f of the energy is left",
            hook,
            l0,
            dictionary.k,
            k,
            dictionary.error_threshold,
        )


def vary_k(dictionary: Dictionary, x: Float[Tensor, "batch d"]) -> float:
    """Make the codes of a dictionary vary in length, in place: ``k`` atoms on average and at most twice as many.

    A code ends once it leaves a share of ``|x - bias|^2`` that is the same for all activations; bisection finds the share
    at which codes have k atoms on average.

    Args:
        dictionary: whose ``k`` becomes the average.
        x: (batch, d) finite training activations.

    Returns:
        The mean L0 of x, at most k.

    Raises:
        InputError: no activations, or a dictionary whose codes vary already.
    """
    if not len(x):
        raise InputError(
            "there are no activations to find an error threshold on: give a sample of training activations"
        )
    if dictionary.error_threshold is not None:
        raise InputError(
            f"codes vary already, with the error threshold {dictionary.error_threshold:.4g}: vary them once only"
        )
    k = dictionary.k
    dictionary.k = MOST * k
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        dictionary.error_threshold = (low + high) / 2
        if _mean_l0(dictionary, x) > k:
            low = dictionary.error_threshold
        else:
            high = dictionary.error_threshold
    dictionary.error_threshold = high
    return _mean_l0(dictionary, x)


def average_k(dictionary: Dictionary) -> int:
    """How many atoms a code has on average: ``k``, or where codes vary the k of the fit; where that is unknown at most ``k``."""
    fit = dictionary.metadata.get("fit") or {}
    return dictionary.k if dictionary.error_threshold is None else int(fit.get("k", dictionary.k))


def _mean_l0(dictionary: Dictionary, x: Tensor) -> float:
    return float(dictionary.encode(x).l0().double().mean())
