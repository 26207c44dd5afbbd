"""Check the arguments of the data before anything is loaded."""

from collections.abc import Mapping
from typing import Any, get_args

from itda_lightning.activations.cache import BITS
from itda_lightning.activations.text.rows import Packing
from itda_lightning.errors import InputError
from itda_lightning.machine.checks import check_at_least, check_choice, check_seed
from itda_lightning.machine.choices import Loader
from itda_lightning.machine.paths import user_path


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise InputError unless every argument of ``ActivationsDataModule`` is in its range."""
    check_at_least(1, {f"data.{name}": arguments[name] for name in ("model_batch_size", "batch_size")})
    check_at_least(4, {"data.context_size": arguments["context_size"]})
    context, training, first = (arguments[name] for name in ("context_size", "training_tokens", "first_tokens"))
    tokens = {"data.training_tokens": training, "data.validation_tokens": arguments["validation_tokens"]}
    check_at_least(context, tokens, "that is one row of data.context_size")
    if first is not None and not context <= first <= training:
        raise InputError(
            f"data.first_tokens must lie between one row of {context} and data.training_tokens ({training:,}), "
            f"got {first:,}"
        )
    if not 0 < arguments["holdout_fraction"] < 1:
        raise InputError(f"data.holdout_fraction must lie between 0 and 1, got {arguments['holdout_fraction']}")
    if arguments["cache_dir"] is not None:
        user_path(arguments["cache_dir"], "data.cache_dir")
    check_seed({"data.seed": arguments["seed"]})
    check_choice(get_args(Packing), {"data.packing": arguments["packing"]})
    check_choice(get_args(Loader), {"data.loader": arguments["loader"]})
    check_choice(BITS, {"data.cache_dtype": arguments["cache_dtype"]})
    hook_names = arguments["hook_names"]
    if not hook_names or len(set(hook_names)) != len(hook_names):
        raise InputError(f"data.hook_names must name at least one hook point, each once, got {hook_names}")
    if arguments["joint"] and len(hook_names) < 2:
        raise InputError(f"data.joint joins several hook points, but data.hook_names has one, {hook_names[0]}")
