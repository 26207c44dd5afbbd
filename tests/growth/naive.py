"""Growth as its definitions read: one activation after another, each encoded by the float64 oracle."""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from itda_lightning.growth import DUPLICATE_COSINE, GrowthRule
from itda_lightning.pursuit import PreparedAtoms, pursue
from tests import oracle
from tests.oracle import Array

# The relative error of an energy that is computed in single precision.
ROUNDING = {torch.float32: 2e-5, torch.float64: 1e-11}


class NaiveGrowth(NamedTuple):
    accepted: list[int]
    residual_energy: Array


def grow_one_by_one(
    x: Tensor, atoms: Tensor, capacity: int, rule: GrowthRule, under_test: Sequence[int]
) -> NaiveGrowth:
    """Accepts what the oracle explains too badly; where that is too close to call, what ``under_test`` accepted.

    Atoms in half precision are rounded to it as they are appended. They are no unit vectors then, so cosines with them
    are known no better than their norms.
    """
    unsure = 2 * torch.finfo(atoms.dtype).eps if atoms.dtype != x.dtype else 0.0
    dictionary = np.concatenate([atoms.double().numpy(), np.zeros((len(x), x.shape[1]))])
    n, accepted, energies = len(atoms), [], []
    for index, row in enumerate(x.double().numpy()):
        energy = float(row @ row)
        limit = limit_of(row, rule)
        residual = residual_energy(x[index], row, dictionary[:n], rule)
        energies.append(residual)
        cosine = dictionary[:n] @ row / np.sqrt(energy)
        close = float((cosine if rule.nonnegative else abs(cosine)).max(initial=-1.0))
        wanted = residual > limit and close < DUPLICATE_COSINE and n < capacity
        too_close = abs(residual - limit) <= ROUNDING[x.dtype] * energy or abs(close - DUPLICATE_COSINE) <= unsure
        if too_close and n < capacity:
            wanted = index in under_test
        if wanted:
            accepted.append(index)
            dictionary[n] = torch.nn.functional.normalize(x[index], dim=0).to(atoms.dtype).double().numpy()
            n += 1
    return NaiveGrowth(accepted, np.array(energies))


def limit_of(row: Array, rule: GrowthRule) -> float:
    energy = float(row @ row)
    return rule.threshold * energy**rule.energy_exponent * rule.typical_energy ** (1 - rule.energy_exponent)


class _PursuedOnDemand(Sequence[int]):
    """The support of one activation; few are asked for, since few decisions are too close to call."""

    def __init__(self, x: Tensor, atoms: Array, rule: GrowthRule, share: float) -> None:
        self._arguments = x, atoms, rule, share

    @cached_property
    def _support(self) -> list[int]:
        x, atoms, rule, share = self._arguments
        same = torch.from_numpy(atoms).to(x.dtype)
        code = pursue(rule.pursuit, x[None], PreparedAtoms(same, len(same)), rule.k, rule.nonnegative, share)
        return [int(atom) for atom in code.support[0] if atom >= 0]

    def __len__(self) -> int:
        return len(self._support)

    def __getitem__(self, step):
        return self._support[step]


def residual_energy(x: Tensor, row: Array, atoms: Array, rule: GrowthRule) -> float:
    share = limit_of(row, rule) / float(row @ row)
    run = oracle.matching_pursuit if rule.pursuit == "mp" else oracle.orthogonal_matching_pursuit
    witness = oracle.Witness(_PursuedOnDemand(x, atoms, rule, share), ROUNDING[x.dtype] / 10)
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
