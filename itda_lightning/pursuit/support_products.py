"""Inner products of activations with the atoms that their codes use, in double precision."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.pursuit.prepared import PreparedAtoms


def support_products(
    x: Float[Tensor, "batch d"], support: Int[Tensor, "batch k"], prepared: PreparedAtoms
) -> Float[Tensor, "batch k"]:
    """Return ``x[i] @ atoms[support[i, s]]`` in float64, 0 for unused columns, without a (batch, k, d) intermediate."""
    if prepared.compiled:
        from itda_lightning.pursuit import compiled  # needs numba, which is there then
        from itda_lightning.pursuit.kernels.support_rows import multiply_rows

        x, products = x.to(prepared.dtype).contiguous(), torch.empty(support.shape, dtype=torch.float64)
        arrays = x.numpy(), compiled.entries(prepared.rows), support.contiguous().numpy(), products.numpy()
        compiled.in_threads(multiply_rows, len(x), *arrays)
        return products
    wide = x.double()
    columns = [(wide * prepared.rows[column].double()).sum(1) for column in support.clamp(min=0).T]
    products = torch.stack(columns, dim=1) if columns else wide.new_zeros(support.shape)
    return products.masked_fill(support < 0, 0.0)
