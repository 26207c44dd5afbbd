"""Activations of several hook points side by side, as those of one joint hook point."""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.activations.batches import kept_activations
from itda_lightning.activations.harvesting import RowActivations, StoredActivations
from itda_lightning.activations.text.rows import Rows
from itda_lightning.dictionary.sites import Site, Sites
from itda_lightning.errors import InputError

SCALING_TOKENS = 8192  # of the sample by which sites are scaled
# A site whose activations differ less, as a share of their norm, differs by rounding only.
ROUNDING = 1e-6


class JointActivations(StoredActivations):
    """Stored activations, joined as they are read."""

    def __init__(self, stored: StoredActivations, sites: Sites) -> None:
        self._stored, self._sites = stored, sites

    @property
    def widths(self) -> dict[str, int]:
        return {self._sites.name: self._sites.width}

    def read(self, start_row: int, stop_row: int) -> RowActivations:
        return joined(self._stored.read(start_row, stop_row), self._sites)

    def read_at(self, rows: Int[Tensor, " m"]) -> dict[str, Float[Tensor, "m positions d"]]:
        return {self._sites.name: self._sites.join(self._stored.read_at(rows))}


def joined(part: RowActivations, sites: Sites) -> RowActivations:
    """Return the same rows with the activations of all sites as one."""
    return RowActivations(part.first_row, {sites.name: sites.join(part.activations)})


def measured_sites(parts: Iterable[RowActivations], rows: Rows) -> Sites:
    """Return the sites of activations of these rows, each scaled such that its median distance from the mean is 1.

    The median, since a few tokens of enormous norm decide a mean of squares. Activations that are not finite at some
    site are left out. Raises InputError for a site that is the same everywhere.
    """
    kept = [kept_activations(rows, part).activations for part in parts]
    activations = {hook: torch.cat([part[hook] for part in kept]) for hook in kept[0]}
    good = torch.stack([torch.isfinite(x).all(1) for x in activations.values()]).all(0)
    if not bool(good.any()):
        raise InputError(f"no token has finite activations at all of {list(activations)}: they cannot be joined")
    sites = []
    for hook, x in activations.items():
        x = x[good].double()
        median = float((x - x.mean(0)).norm(dim=1).median())
        if median <= ROUNDING * float(x.norm(dim=1).median()):
            raise InputError(
                f"most activations at {hook} are the same in the sample of {len(x):,} tokens: a dead site cannot be "
                "joined, leave it out of data.hook_names"
            )
        sites.append(Site(hook, x.shape[1], 1 / median))
    return Sites(sites)
