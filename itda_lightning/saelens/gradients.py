"""Gradients of codes with the support held fixed, which attribution through an SAE needs."""

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.pursuit import PursuitName, SparseCode


def differentiable(
    code: SparseCode, x: Float[Tensor, "batch d"], atoms: Float[Tensor, "n d"], pursuit: PursuitName
) -> SparseCode:
    """The same code, whose coefficients have their gradient with respect to x.

    On a fixed support S the coefficients are linear in x. Matching pursuit gives ``c_t = <x, a_t> - sum_{s<t} c_s <a_s,
    a_t>``, a unit lower triangular system; the orthogonal one the least-squares ones, the system of S's Gram. The
    values stay those of ``code``, bit for bit. Takes memory for (batch, k, d).
    """
    used = code.support >= 0
    chosen = atoms[code.support.clamp(min=0)].to(x.dtype) * used[:, :, None]
    correlations = torch.einsum("bd,btd->bt", x, chosen)
    inner = torch.einsum("btd,bsd->bts", chosen, chosen)
    if pursuit == "mp":
        system = inner.tril(-1) + torch.eye(inner.shape[1], dtype=inner.dtype, device=inner.device)
        linear = torch.linalg.solve_triangular(system, correlations[:, :, None], upper=False, unitriangular=True)
    else:
        linear = torch.linalg.solve(inner + torch.diag_embed((~used).to(inner.dtype)), correlations[:, :, None])
    gradient = linear[:, :, 0] - linear[:, :, 0].detach()
    return code._replace(coefficients=code.coefficients + gradient)
