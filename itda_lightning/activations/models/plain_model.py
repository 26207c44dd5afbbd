"""Read activations from a model's own modules, without what SAELens and TransformerLens put around them.

TransformerLens's bridge computes attention step by step, and norms twice, so that hook points within them exist. If
all hook points that are asked for are what modules of the model read or give, its own modules are run instead, with
the attention that `transformers` chooses for it, up to the last of these modules.
"""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.activations.models.model_name import BALANCED, LanguageModelName
from itda_lightning.activations.models.own_activations import OwnModel, comparable, input_of


class _AllRead(Exception):  # noqa: N818  it is no error
    pass


class Site(NamedTuple):
    """A module of a model of `transformers`, at whose input or output activations are."""

    module: str
    at_input: bool = False


class PlainModel:
    """A model of `transformers` whose modules give activations; ``sites`` are the modules by hook point."""

    def __init__(self, model: Any, sites: dict[str, Site]) -> None:
        self.model, self.sites = model, sites

    @torch.no_grad()
    def read(self, tokens: Int[Tensor, "rows context"]) -> dict[str, Float[Tensor, "rows context d"]]:
        """Run rows of tokens up to the last site and return the activations by hook point."""
        read: dict[str, Tensor] = {}

        def keep(hook_name: str, values: Any) -> None:
            # A copy, as the model may add to them in place.
            read[hook_name] = (values[0] if isinstance(values, tuple | list) else values).clone()
            if len(read) == len(self.sites):
                raise _AllRead

        handles = [self._hook(site, partial(keep, hook_name)) for hook_name, site in self.sites.items()]
        try:
            self.model(tokens.to(self.model.device), use_cache=False)
        except _AllRead:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return {hook_name: read[hook_name].flatten(2) for hook_name in self.sites}

    def _hook(self, site: Site, keep: Callable[[Any], None]) -> Any:
        module = self.model.get_submodule(site.module)
        if site.at_input:
            return module.register_forward_pre_hook(
                lambda _, args, options: keep(input_of(args, options)), with_kwargs=True
            )
        return module.register_forward_hook(lambda _, __, output: keep(output))


def plain_model(model: Any, name: LanguageModelName, hook_names: list[str], own: OwnModel) -> PlainModel | None:
    """Return what reads the hook points of a loaded model from its own modules; None if one of them is no module's.

    ``model`` and ``own`` are what ``loaders.load`` gave. A model that is spread over devices is run as a whole, since
    what moves its weights must not be interrupted.
    """
    if name.loader == "huggingface" and name.device != BALANCED:
        return PlainModel(model.model, {hook_name: Site(hook_name) for hook_name in hook_names})
    if name.loader != "bridge" or own.modules is None:
        return None
    sites = {}
    for hook_name in hook_names:
        found = comparable(model, own, hook_name)
        if found is None or found.hook_name != hook_name or found.own.ndim != 3:
            return None
        conversion = reduce(getattr, hook_name.split("."), model).hook_conversion
        if conversion is not None and conversion.convert(found.own).shape != found.own.shape:
            return None  # the bridge gives it by heads
        sites[hook_name] = Site(found.module, found.at_input)
    return PlainModel(own.modules, sites)
