"""Run one step of growth in all processes, after which all know the same atoms, whatever their number."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.growth.frozen_batch import grow_frozen_batch
from itda_lightning.growth.rule import Growth, GrowthRule
from itda_lightning.growth.sequential import grow_sequential
from itda_lightning.growth.worst_first import grow_worst_first
from itda_lightning.machine.processes import broadcast, n_ranks, rank
from itda_lightning.pursuit import PreparedAtoms, pursue_among_ranks

# Policies that encode many activations at once, so that each process can take a part of them. Sequential growth
# judges each activation after those before it, so one process does all of it, and of several dictionaries each its own.
SHARED = {"frozen_batch": grow_frozen_batch, "worst_first": grow_worst_first}


class Step(NamedTuple):
    """What a policy is called with, the same in all processes."""

    x: Float[Tensor, "batch d"]
    prepared: PreparedAtoms
    rule: GrowthRule


def grow_among_ranks(policy: str, steps: Sequence[Step]) -> list[Growth]:
    """One step of each of several dictionaries, at the sparsity and threshold of its own.

    Sequential growth sends 8 bytes an activation, the others their codes (``pursue_among_ranks``).

    Args:
        policy: one of ``GROWTH_POLICIES``.
    """
    for step in steps:
        step.prepared.build_gram()
    if policy in SHARED:
        return [SHARED[policy](*step, pursue_among_ranks) for step in steps]
    mine = {number: grow_sequential(*steps[number]) for number in range(rank(), len(steps), n_ranks())}
    return [_told(mine.get(number), step.x, number % n_ranks()) for number, step in enumerate(steps)]


def _told(mine: Growth | None, x: Float[Tensor, "batch d"], teller: int) -> Growth:
    """The step that process ``teller`` made, in every process."""
    if mine is not None and n_ranks() == 1:
        return mine
    told = torch.zeros(2, len(x), dtype=x.dtype, device=x.device)  # who became an atom, and residual energies
    if mine is not None:
        told[0, mine.accepted], told[1] = 1, mine.residual_energy
    told = broadcast(told, teller)
    accepted = told[0].nonzero()[:, 0]
    return Growth(accepted, torch.nn.functional.normalize(x[accepted], dim=1), told[1])
