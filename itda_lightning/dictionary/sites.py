"""Sites: the hook points whose activations stand side by side in one joint activation."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.errors import InputError

LONGEST_NAME = 200  # characters: it names directories


class Site(NamedTuple):
    """A hook point within a joint activation.

    Attributes:
        hook_name: the hook point.
        width: of its activations.
        scale: its activations are multiplied by this, so that all sites weigh alike.
    """

    hook_name: str
    width: int
    scale: float


class Sites(tuple[Site, ...]):
    """The sites of a joint activation, in their order.

    Example:
        >>> import torch
        >>> from itda_lightning.dictionary.sites import Site, Sites
        >>> sites = Sites([Site("blocks.1.hook_resid_post", 2, 0.5), Site("blocks.2.hook_resid_post", 1, 2.0)])
        >>> sites.name
        'blocks.1+2.hook_resid_post'
        >>> x = sites.join({"blocks.1.hook_resid_post": torch.ones(3, 2), "blocks.2.hook_resid_post": torch.ones(3, 1)})
        >>> x[0]
        tensor([0.5000, 0.5000, 2.0000])
        >>> sites.split(x)["blocks.2.hook_resid_post"].shape
        torch.Size([3, 1])
    """

    @classmethod
    def of(cls, facts: Sequence[Sequence[Any]]) -> "Sites":
        """Return the sites of their JSON form, lists of hook point, width and scale."""
        return cls(Site(str(hook), int(width), float(scale)) for hook, width, scale in facts)

    @property
    def hook_names(self) -> list[str]:
        """Their hook points."""
        return [site.hook_name for site in self]

    @property
    def name(self) -> str:
        """The name of the joint activation."""
        return joint_name(self.hook_names)

    @property
    def width(self) -> int:
        """The width of the joint activation."""
        return sum(site.width for site in self)

    def columns(self, hook_name: str) -> slice:
        """Return the columns of a site. Raises InputError for a hook point that is none of them."""
        if hook_name not in self.hook_names:
            raise InputError(f"{hook_name!r} is none of the sites {self.hook_names}")
        place = self.hook_names.index(hook_name)
        start = sum(site.width for site in self[:place])
        return slice(start, start + self[place].width)

    def scale(self, hook_name: str) -> float:
        """Return the scale of a site. Raises as ``columns``."""
        self.columns(hook_name)
        return self[self.hook_names.index(hook_name)].scale

    def some(self, hook_names: Sequence[str]) -> "Sites":
        """Return those of these hook points, in the order of the sites. Raises as ``columns``, and for none."""
        for hook_name in hook_names:
            self.columns(hook_name)
        if not hook_names:
            raise InputError(f"name at least one of the sites {self.hook_names}")
        return Sites(site for site in self if site.hook_name in hook_names)

    def join(self, parts: Mapping[str, Float[Tensor, "..."]]) -> Float[Tensor, "*leading d"]:
        """Scale the activations (..., width) of each site and put them side by side, in at least single precision.

        Raises InputError for a missing site, a hook point that is none, another width or other leading shapes.
        """
        if set(parts) != set(self.hook_names):
            raise InputError(f"activations are needed at the sites {self.hook_names}, got {list(parts)}")
        for site in self:
            if parts[site.hook_name].shape[-1:] != (site.width,):
                raise InputError(
                    f"activations at {site.hook_name} must have the shape (..., {site.width}), got "
                    f"{tuple(parts[site.hook_name].shape)}"
                )
        shapes = {tuple(parts[hook].shape[:-1]) for hook in self.hook_names}
        if len(shapes) > 1:
            raise InputError(f"activations of all sites must be of the same tokens, got the shapes {sorted(shapes)}")
        return torch.cat([_at_least_single(parts[site.hook_name]) * site.scale for site in self], dim=-1)

    def split(self, x: Float[Tensor, "*leading d"]) -> dict[str, Float[Tensor, "..."]]:
        """Undo ``join``."""
        return {site.hook_name: x[..., self.columns(site.hook_name)] / site.scale for site in self}


def _at_least_single(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def joint_name(hook_names: Sequence[str]) -> str:
    """Name a joint activation: hook points that differ in one number are written as one, others one after another.

    Raises InputError for a name that is too long for a directory.

    Example:
        >>> from itda_lightning.dictionary.sites import joint_name
        >>> joint_name(["blocks.4.hook_resid_post", "blocks.14.hook_resid_post"])
        'blocks.4+14.hook_resid_post'
        >>> joint_name(["blocks.4.hook_mlp_out", "blocks.4.hook_resid_post"])
        'blocks.4.hook_mlp_out+blocks.4.hook_resid_post'
    """
    forms = {re.sub(r"\d+", "0", name) for name in hook_names}
    numbers = [re.findall(r"\d+", name) for name in hook_names]
    if len(forms) == 1 and all(len(found) == 1 for found in numbers):
        name = re.sub(r"\d+", "+".join(found[0] for found in numbers), hook_names[0])
    else:
        name = "+".join(hook_names)
    if len(name) > LONGEST_NAME:
        raise InputError(
            f"the name of {len(hook_names)} joint hook points has {len(name)} characters, at most {LONGEST_NAME} can "
            "name a directory: join fewer"
        )
    return name
