"""Frozen-batch growth, as in the paper's released code: score a batch, then append every failure."""

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.growth.rule import DUPLICATE_COSINE, Growth, GrowthRule
from itda_lightning.pursuit import pursue


def grow_frozen_batch(
    x: Float[Tensor, "batch d"],
    atoms: Float[Tensor, "capacity d"],
    gram: Float[Tensor, "capacity capacity"] | None,
    n_atoms: int,
    rule: GrowthRule,
) -> Growth:
    """The activations that the first ``n_atoms`` atoms explain too badly, cropped at the capacity.

    A failure that nearly repeats an atom or an earlier failure of the batch is left out.

    Args:
        x: (batch, d) finite centred activations.
        atoms: (capacity, d) buffer whose first ``n_atoms`` rows are the dictionary.
        gram: (capacity, capacity) buffer of their inner products, or None.
    """
    code = pursue(
        rule.pursuit,
        x,
        atoms[:n_atoms],
        rule.k,
        rule.nonnegative,
        rule.threshold,
        gram[:n_atoms, :n_atoms] if gram is not None else None,
    )
    energy = x.square().sum(-1)
    failures = (code.residual_energy > rule.threshold * energy).nonzero()[:, 0]
    candidates = torch.nn.functional.normalize(x[failures], dim=1)
    if rule.threshold < 1 - DUPLICATE_COSINE**2 and n_atoms:
        fresh = _similarity(candidates @ atoms[:n_atoms].T, rule).amax(1) < DUPLICATE_COSINE
        failures, candidates = failures[fresh], candidates[fresh]
    distinct = _first_of_its_kind(candidates, rule)[: len(atoms) - n_atoms]
    return Growth(failures[distinct], candidates[distinct], code.residual_energy)


def _similarity(cosine: Tensor, rule: GrowthRule) -> Tensor:
    return cosine if rule.nonnegative else cosine.abs()


def _first_of_its_kind(candidates: Float[Tensor, "m d"], rule: GrowthRule) -> Tensor:
    alike = (_similarity(candidates @ candidates.T, rule) >= DUPLICATE_COSINE).tril(-1)
    kept = torch.ones(len(candidates), dtype=torch.bool, device=candidates.device)
    for row in alike.any(1).nonzero()[:, 0].tolist():
        kept[row] = not bool((alike[row] & kept).any())
    return kept.nonzero()[:, 0]
