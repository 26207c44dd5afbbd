"""Hook points: what they hold, found out by a trial run of the model before anything is harvested."""

import difflib
from functools import reduce
from typing import Any

import torch
from sae_lens.util import extract_stop_at_layer_from_tlens_hook_name

from itda_lightning.activations.models.model_name import first_line
from itda_lightning.activations.models.own_activations import (
    OwnModel,
    check_agreement,
    comparable,
    comparable_layer,
)
from itda_lightning.activations.models.trial_run import trial_tokens
from itda_lightning.errors import InputError
from itda_lightning.machine.memory import TOO_LITTLE_MEMORY, is_out_of_memory


def widths_of(
    model: Any, name: str, loader: str, hook_names: list[str], n_tokens: int, longest: int | None, own: OwnModel
) -> dict[str, int]:
    """Return d_in at the hook points by running two rows of a model's ``n_tokens`` tokens through it.

    ``longest`` is the longest row that it reads. ``own`` are the model's own runs on these tokens, if TransformerLens
    wraps or converts its modules.

    Raises:
        InputError: an unknown hook point, one that does not hold one activation per token, a model that cannot be run,
            or activations there that are not those of the model's own modules.
    """
    if not hook_names:
        return {}
    compared_by = comparable_layer if loader == "hooked_transformer" else comparable
    found = {hook: compared_by(model, own, hook) for hook in hook_names} if own.runs else {}
    comparisons = {hook: comparison for hook, comparison in found.items() if comparison is not None}
    tokens = trial_tokens(n_tokens, own.device, longest) if own.tokens is None else own.tokens.to(own.device)
    stops = [extract_stop_at_layer_from_tlens_hook_name(hook) for hook in hook_names]
    try:
        with torch.no_grad():
            cache: Any = model.run_with_cache(
                tokens,
                names_filter=[*hook_names, *(comparison.hook_name for comparison in comparisons.values())],
                stop_at_layer=None if None in stops else max(stop for stop in stops if stop is not None),
                prepend_bos=False,
            )[1]
    except Exception as error:  # whatever a model raises that does not fit its weights or its configuration
        for hook in hook_names:
            if not _resolves(model, loader, hook):
                raise _unknown(model, name, loader, hook) from error
        if is_out_of_memory(error):
            raise InputError(
                f"running the language model {name!r} {TOO_LITTLE_MEMORY} ({first_line(error)})"
            ) from error
        raise InputError(
            f"the language model {name!r} cannot be run with loader {loader!r}: {type(error).__name__}: "
            f"{first_line(error)}; check its config.json, or set another loader"
        ) from error
    widths = {}
    for hook in hook_names:
        try:
            activation = cache[hook]
        except KeyError as error:
            raise _unknown(model, name, loader, hook) from error
        if activation.ndim < 3 or activation.shape[:2] != tokens.shape:
            raise InputError(
                f"the hook point {hook!r} of {name!r} does not hold one activation per token: {len(tokens)} rows of "
                f"{tokens.shape[1]} tokens give the shape {tuple(activation.shape)}"
            )
        widths[hook] = int(activation[0, 0].numel())
    check_agreement(comparisons, cache, tokens, name, loader)
    return widths


def no_such_hook_point(name: str, hook_name: str, known: list[str]) -> InputError:
    """Return the error for an unknown hook point, which names the nearest known ones."""
    known = list(dict.fromkeys(known))
    nearest = difflib.get_close_matches(hook_name, known, n=4, cutoff=0.5) or known[:4]
    return InputError(f"the language model {name!r} has no hook point {hook_name!r}: did you mean one of {nearest}?")


def _resolves(model: Any, loader: str, hook_name: str) -> bool:
    if loader == "huggingface":
        return True
    try:
        reduce(getattr, hook_name.split("."), model)
    except (AttributeError, IndexError):
        return False
    return True


def _unknown(model: Any, name: str, loader: str, hook_name: str) -> InputError:
    if loader == "huggingface":  # the module exists
        return InputError(
            f"the module {hook_name!r} of {name!r} does not hold one activation per token: it gives no tensor, or is "
            "never called; name a module within it, such as one of its layers"
        )
    # The bridge accepts aliases, but its registry lists only canonical names.
    aliases = [f"blocks.{i}.hook_resid_post" for i in range(getattr(model.cfg, "n_layers", 0))]
    return no_such_hook_point(name, hook_name, aliases + list(model.hook_dict))
