"""Frozen-batch growth, as in the paper's released code: score a batch, then append every failure."""

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.growth.rule import DUPLICATE_COSINE, Encode, Growth, GrowthRule
from itda_lightning.pursuit import PreparedAtoms, pursue


def grow_frozen_batch(
    x: Float[Tensor, "batch d"], prepared: PreparedAtoms, rule: GrowthRule, encode: Encode = pursue
) -> Growth:
    """Return the finite centred activations that the atoms explain too badly, cropped at the capacity.

    A failure that nearly repeats an atom or an earlier failure of the batch is left out.
    """
    code = encode(rule.pursuit, x, prepared, rule.k, rule.nonnegative, rule.shares(x))
    failures = (code.residual_energy > rule.threshold * rule.reference(x)).nonzero()[:, 0]
    candidates = torch.nn.functional.normalize(x[failures], dim=1)
    if rule.admits_repeats:
        fresh = ~rule.repeats(candidates.to(prepared.dtype), prepared.atoms)
        failures, candidates = failures[fresh], candidates[fresh]
    distinct = _first_of_its_kind(candidates, rule)[: prepared.capacity - prepared.n]
    return Growth(failures[distinct], candidates[distinct], code.residual_energy)


def _first_of_its_kind(candidates: Float[Tensor, "m d"], rule: GrowthRule) -> Tensor:
    alike = (rule.similarity(candidates @ candidates.T) >= DUPLICATE_COSINE).tril(-1)
    kept = torch.ones(len(candidates), dtype=torch.bool, device=candidates.device)
    for row in alike.any(1).nonzero()[:, 0].tolist():
        kept[row] = not bool((alike[row] & kept).any())
    return kept.nonzero()[:, 0]
