"""The unit rows that a pursuit uses, prepared from the stored rows and kept until these change."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from itda_lightning.pursuit import PreparedAtoms


class StoredRows(NamedTuple):
    """The rows as an SAE stores them, and the unit rows that a pursuit uses.

    Attributes:
        stored: the rows as stored. Keeping them keeps their memory, so that no later rows can have its address.
        version: how often the stored rows had been changed in place.
        norms: norms of the stored rows if those were normalised again, else None.
        prepared: the unit rows; ``stored`` itself unless that is of half precision.
    """

    stored: Float[Tensor, "n d"]
    version: int
    norms: Float[Tensor, " n"] | None
    prepared: PreparedAtoms

    def still_hold(self, stored: Float[Tensor, "n d"]) -> bool:
        """Check that these were made from ``stored`` as it is now (changes through ``.data[...]`` go unnoticed)."""
        now = (stored.data_ptr(), stored.dtype, stored.device, _version_of(stored))
        return now == (self.stored.data_ptr(), self.stored.dtype, self.stored.device, self.version)


def _version_of(tensor: Tensor) -> int:
    """Return how often the tensor was changed in place; 0 for inference tensors, which do not count."""
    return 0 if tensor.is_inference() else tensor._version


@torch.no_grad()
def unit_rows(stored: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Return stored rows as unit rows: those of half precision are normalised again in float32.

    Rounding to half precision takes the norm of a row off 1 (by up to 0.4% in bfloat16), which least squares on the
    support would turn into wrong coefficients.
    """
    stored = stored.detach()
    return functional.normalize(stored.float(), dim=1) if torch.finfo(stored.dtype).bits < 32 else stored


@torch.no_grad()
def prepare(stored: Float[Tensor, "n d"]) -> StoredRows:
    """Prepare stored unit rows of any floating dtype for a pursuit."""
    rows = unit_rows(stored)
    norms = torch.linalg.vector_norm(stored.float(), dim=1) if rows.dtype != stored.dtype else None
    prepared = PreparedAtoms(rows, len(rows))
    if not prepared.compiled:
        prepared.build_gram()  # a Gram built later would change codes by rounding
    return StoredRows(stored.detach(), _version_of(stored), norms, prepared)
