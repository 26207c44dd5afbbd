"""Tell activations that can be used from those that are not finite or all zero."""

import logging
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from itda_lightning.dictionary.sources import Source
from itda_lightning.errors import InputError

logger = logging.getLogger(__name__)

BadActivations = Literal["skip", "refuse"]
# Sources named in a warning.
NAMED = 5


def usable(
    x: Float[Tensor, "batch d"], table: Int[Tensor, "batch 6"], hook_name: str, policy: BadActivations
) -> Bool[Tensor, " batch"]:
    """Return (batch,) True for activations that are finite and not all zero; warn of the others, naming a few sources.

    Args:
        x: activations.
        table: their sources, columns as in ``sources.COLUMNS``.
        hook_name: named in the warning.
        policy: "skip" warns, "refuse" raises.

    Raises:
        InputError: some are not usable and the policy is "refuse".
    """
    good = torch.isfinite(x).all(-1) & (x != 0).any(-1)
    if bool(good.all()):
        return good
    bad = (~good).nonzero()[:, 0].tolist()
    named = ", ".join(str(Source(*table[index].tolist())) for index in bad[:NAMED])
    message = f"{len(bad)} of {len(x)} activations at {hook_name} are zero or not finite: {named}"
    if policy == "refuse":
        raise InputError(f"{message}; set model.bad_activations=skip to leave them out, or use model_dtype=float32")
    logger.warning("%s; they are skipped and counted", message)
    return good
