"""Calibration: the threshold at which a dictionary of a wanted size fills about when the token budget ends."""

import math
from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from itda_lightning.growth.frozen_batch import grow_frozen_batch
from itda_lightning.growth.rule import GrowthRule
from itda_lightning.pursuit import update_gram

LOWEST, HIGHEST = 1e-3, 0.98
BISECTIONS = 9


class Forecast(NamedTuple):
    """What growth on a sample says of growth on the whole budget.

    Attributes:
        n_atoms: the number of atoms after the whole budget, had the dictionary no limit.
        fills_after: activations after which ``max_atoms`` are reached; infinite if never.
    """

    n_atoms: float
    fills_after: float


def forecast(x: Float[Tensor, "sample d"], rule: GrowthRule, max_atoms: int, budget: int) -> Forecast:
    """Grow on a sample of centred activations and extrapolate the curve by the power law of its second half."""
    seen, grown = _grow_on(x, rule, max_atoms)
    if grown[-1] >= max_atoms:
        return Forecast(math.inf, seen[-1])
    if grown[-1] == 0:  # nothing but activations without energy
        return Forecast(0.0, math.inf)
    middle = min(range(len(seen)), key=lambda i: abs(seen[i] - seen[-1] / 2))
    growth = math.log(grown[-1] / max(grown[middle], 1))
    exponent = growth / math.log(seen[-1] / seen[middle]) if middle < len(seen) - 1 else 1
    fills_after = seen[-1] * (max_atoms / grown[-1]) ** (1 / exponent) if exponent > 0.01 else math.inf
    return Forecast(grown[-1] * (budget / seen[-1]) ** exponent, fills_after)


def calibrate_threshold(
    x: Float[Tensor, "sample d"],
    rule: GrowthRule,
    max_atoms: int,
    budget: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[float, Forecast]:
    """The threshold whose forecast fills ``max_atoms`` at the end of ``budget`` activations, by bisection.

    Args:
        x: (sample, d) centred activations drawn from the whole budget.
        rule: the growth rule; its threshold is not used.
        progress: called with (steps done, steps in all).

    Raises:
        ValueError: a budget of fewer activations than atoms: even appending everything would not fill the dictionary.
    """
    if budget < max_atoms:
        raise ValueError(
            f"a budget of {budget:,} activations cannot fill {max_atoms:,} atoms: raise training_tokens or lower max_atoms"
        )
    low, high = math.log(LOWEST), math.log(HIGHEST)
    for step in range(BISECTIONS):
        middle = (low + high) / 2
        if forecast(x, rule._replace(threshold=math.exp(middle)), max_atoms, budget).n_atoms > max_atoms:
            low = middle
        else:
            high = middle
        if progress is not None:
            progress(step + 1, BISECTIONS)
    threshold = math.exp((low + high) / 2)
    return threshold, forecast(x, rule._replace(threshold=threshold), max_atoms, budget)


def _grow_on(x: Tensor, rule: GrowthRule, max_atoms: int) -> tuple[list[int], list[int]]:
    # Batches that grow with the dictionary come close to sequential growth at the price of frozen batches.
    capacity = min(max_atoms, len(x))
    atoms = x.new_zeros(capacity, x.shape[1])
    gram = x.new_zeros(capacity, capacity)
    n, position = 0, 0
    seen, grown = [], []
    while position < len(x) and n < capacity:
        size = 1 if n == 0 else min(max(n // 8, 8), 1024)
        step = grow_frozen_batch(x[position : position + size], atoms, gram, n, rule)
        atoms[n : n + len(step.atoms)] = step.atoms
        update_gram(gram, atoms, n, n + len(step.atoms))
        n += len(step.atoms)
        position = min(position + size, len(x))
        seen.append(position)
        grown.append(n)
    return seen, grown
