"""Growth as its definitions read: one activation after another, each encoded by the float64 oracle."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from itda_lightning.growth import DUPLICATE_COSINE, GrowthRule
from itda_lightning.pursuit import PreparedAtoms, pursue
from tests import oracle

# The relative error of an energy that is computed in single precision.
ROUNDING = {torch.float32: 2e-5, torch.float64: 1e-11}


class NaiveGrowth(NamedTuple):
    accepted: list[int]
    residual_energy: np.ndarray


def grow_one_by_one(x: Tensor, atoms: Tensor, capacity: int, rule: GrowthRule, under_test: list[int]) -> NaiveGrowth:
    """Accepts what the oracle explains too badly; where that is too close to call, what ``under_test`` accepted."""
    dictionary = [row.double().numpy() for row in atoms]
    accepted, energies = [], []
    for index, row in enumerate(x.double().numpy()):
        energy = float(row @ row)
        limit = limit_of(row, rule)
        residual = residual_energy(x[index], row, dictionary, rule)
        energies.append(residual)
        unit = row / np.sqrt(energy)
        close = max((abs(atom @ unit) if not rule.nonnegative else atom @ unit for atom in dictionary), default=-1.0)
        wanted = residual > limit and close < DUPLICATE_COSINE and len(dictionary) < capacity
        if abs(residual - limit) <= ROUNDING[x.dtype] * energy and len(dictionary) < capacity:
            wanted = index in under_test
        if wanted:
            accepted.append(index)
            dictionary.append(torch.nn.functional.normalize(x[index], dim=0).double().numpy())
    return NaiveGrowth(accepted, np.array(energies))


def limit_of(row: np.ndarray, rule: GrowthRule) -> float:
    energy = float(row @ row)
    return rule.threshold * energy**rule.energy_exponent * rule.typical_energy ** (1 - rule.energy_exponent)


def residual_energy(x: Tensor, row: np.ndarray, dictionary: list[np.ndarray], rule: GrowthRule) -> float:
    share = limit_of(row, rule) / float(row @ row)
    atoms = np.array(dictionary).reshape(len(dictionary), len(row))
    same = torch.from_numpy(atoms).to(x.dtype)
    support = pursue(rule.pursuit, x[None], PreparedAtoms(same, len(same)), rule.k, rule.nonnegative, share).support[0]
    run = oracle.matching_pursuit if rule.pursuit == "mp" else oracle.orthogonal_matching_pursuit
    witness = oracle.Witness([int(atom) for atom in support if atom >= 0], ROUNDING[x.dtype] / 10)
    residual = run(row, atoms, rule.k, rule.nonnegative, share, witness).residual
    return float(residual @ residual)


def mixtures(n: int, d: int, seed: int, dtype: torch.dtype = torch.float64, common: float = 1.0) -> Tensor:
    """Sparse mixtures of hidden directions with one that all share, some noise, and very different norms."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weights = normal(n, 3 * d).abs() * (torch.rand(n, 3 * d, generator=generator) < 0.08)
    x = weights @ normal(3 * d, d) + common * normal(d) + 0.05 * normal(n, d)
    return (x * (0.5 * normal(n, 1)).exp()).to(dtype)
