"""Check the arguments of ``ActivationsDataModule``."""

from collections.abc import Mapping
from typing import Any, get_args

from itda_lightning.activations.cache import BITS
from itda_lightning.activations.models.language_model import Loader
from itda_lightning.activations.text.rows import Packing
from itda_lightning.errors import InputError

AT_LEAST = {"model_batch_size": 1, "batch_size": 1, "context_size": 4}
CHOICES = {"packing": get_args(Packing), "loader": get_args(Loader), "cache_dtype": sorted(BITS)}


def check_data_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise InputError unless every argument of ``ActivationsDataModule`` is in its range."""
    for name, minimum in AT_LEAST.items():
        if arguments[name] < minimum:
            raise InputError(f"data.{name} must be at least {minimum}, got {arguments[name]}")
    context, training, first = (arguments[name] for name in ("context_size", "training_tokens", "first_tokens"))
    for name in ("training_tokens", "validation_tokens"):
        if arguments[name] < context:
            raise InputError(f"data.{name} must be at least one row of {context}, got {arguments[name]}")
    if first is not None and not context <= first <= training:
        raise InputError(
            f"data.first_tokens must lie between one row of {context} and data.training_tokens ({training:,}), "
            f"got {first:,}"
        )
    if not 0 < arguments["holdout_fraction"] < 1:
        raise InputError(f"data.holdout_fraction must lie between 0 and 1, got {arguments['holdout_fraction']}")
    for name, choices in CHOICES.items():
        if arguments[name] not in choices:
            raise InputError(f"data.{name} must be one of {choices}, got {arguments[name]!r}")
    hook_names = arguments["hook_names"]
    if not hook_names or len(set(hook_names)) != len(hook_names):
        raise InputError(f"data.hook_names must name at least one hook point, each once, got {hook_names}")
