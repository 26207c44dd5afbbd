"""Run one step of growth in all processes, after which all know the same atoms, whatever their number."""

from collections.abc import Callable, Sequence
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

# Most policies encode many activations at once and take the function that does so as their last argument, so that each
# process can take a part. Sequential growth judges each activation after those before it, so one process does all of
# it, one dictionary per process.
GROWTH_POLICIES: dict[str, Callable[..., Growth]] = {
    "frozen_batch": grow_frozen_batch,
    "sequential": grow_sequential,
    "worst_first": grow_worst_first,
}


class Step(NamedTuple):
    """The arguments of a policy, the same in all processes."""

    x: Float[Tensor, "batch d"]
    prepared: PreparedAtoms
    rule: GrowthRule


def grow_among_ranks(policy: str, steps: Sequence[Step]) -> list[Growth]:
    """Grow several dictionaries by one step each, by one of ``GROWTH_POLICIES``, each by its own rule.

    Sequential growth sends 8 bytes per activation, the others their codes (``pursue_among_ranks``).
    """
    for step in steps:
        step.prepared.build_gram()
    if policy != "sequential":
        return [GROWTH_POLICIES[policy](*step, pursue_among_ranks) for step in steps]
    grown = {number: grow_sequential(*steps[number]) for number in range(rank(), len(steps), n_ranks())}
    return [_shared(grown.get(number), step.x, number % n_ranks()) for number, step in enumerate(steps)]


def _shared(growth: Growth | None, x: Float[Tensor, "batch d"], source: int) -> Growth:
    """Return the step of process ``source`` in every process."""
    message = torch.zeros(2, len(x), dtype=x.dtype, device=x.device)  # which became atoms, and residual energies
    if growth is not None:
        message[0, growth.accepted], message[1] = 1, growth.residual_energy
    message = broadcast(message, source)
    accepted = message[0].nonzero()[:, 0]
    return Growth(accepted, torch.nn.functional.normalize(x[accepted], dim=1), message[1])
