"""Calibration: the threshold at which a dictionary of a given size fills about when the token budget ends."""

import bisect
import math
from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from itda_lightning.growth.frozen_batch import grow_frozen_batch
from itda_lightning.growth.rule import GrowthRule
from itda_lightning.pursuit import PreparedAtoms

LOWEST, HIGHEST = 1e-3, 0.98
MOST_FORECASTS = 12
# A forecast this near to the wanted number of atoms is near enough: growth differs from it by more.
NEAR = 0.02
MANY_DOUBLINGS = 100  # more data than there is
FEWEST_BATCHES = 8  # of a sample: larger ones would only show that the first batch is taken whole


class Forecast(NamedTuple):
    """A forecast, from growth on a sample, of growth on the whole budget.

    Attributes:
        n_atoms: the number of atoms after the whole budget, had the dictionary no limit.
        fills_after: activations after which ``max_atoms`` are reached; infinite if never.
    """

    n_atoms: float
    fills_after: float


def forecast(
    x: Float[Tensor, "sample d"], rule: GrowthRule, max_atoms: int, budget: int, batch_size: int | None = None
) -> Forecast:
    """Grow on a sample of centred activations and extrapolate the curve.

    With ``batch_size``, in frozen batches; without, one activation after another.

    From one doubling of the data to the next the number of new atoms changes by a factor, taken from the last two
    doublings of the sample: 1 if the dictionary grows with the logarithm of the data, as it does on language models
    once the common activations are there, 2 if every activation becomes an atom. (A power law through the same
    points overestimates a fit on 24 times the sample by half.)
    """
    seen, grown = _grow_on(x, rule, max_atoms, batch_size)
    if grown[-1] >= max_atoms:
        return Forecast(math.inf, seen[-1])
    whole, half, quarter = (_at(seen, grown, seen[-1] / part) for part in (1, 2, 4))
    last = whole - half
    if last <= 0:
        return Forecast(whole, math.inf)
    factor = min(max(last / max(half - quarter, 1e-9), 1.0), 2.0)
    doublings, until_full = math.log2(budget / seen[-1]), (max_atoms - whole) / last
    if factor > 1:  # the sum of factor + factor^2 + ..., and the number of terms that add up to what is missing
        doublings = factor * (factor**doublings - 1) / (factor - 1)
        until_full = math.log(1 + until_full * (factor - 1) / factor, factor)
    fills_after = seen[-1] * 2**until_full if until_full < MANY_DOUBLINGS else math.inf
    return Forecast(whole + last * doublings, fills_after)


def _at(seen: list[int], grown: list[int], position: float) -> float:
    """Interpolate the number of atoms after ``position`` activations."""
    after = bisect.bisect_left(seen, position)
    low, low_n = seen[after - 1], grown[after - 1]
    return low_n + (grown[after] - low_n) * (position - low) / (seen[after] - low)


def calibrate_threshold(
    x: Float[Tensor, "sample d"],
    rule: GrowthRule,
    max_atoms: int,
    budget: int,
    progress: Callable[[int, int], None] | None = None,
    batch_size: int | None = None,
) -> tuple[float, Forecast]:
    """Find the threshold whose forecast fills ``max_atoms`` at the end of ``budget`` activations.

    Each threshold tried lies between the nearest too low and the nearest too high one: where a power law through their
    forecasts has ``max_atoms``, or in the middle of their logarithms if one has no finite forecast.

    Args:
        x: (sample, d) centred activations drawn from the whole budget.
        rule: the growth rule; its threshold is not used.
        progress: called with (steps done, steps in all).
        batch_size: of frozen batches; None for growth that judges one activation after another.

    Raises:
        ValueError: a budget of fewer activations than atoms: even appending everything would not fill the dictionary.
    """
    if budget < max_atoms:
        raise ValueError(
            f"a budget of {budget:,} activations cannot fill {max_atoms:,} atoms: raise training_tokens or lower "
            "max_atoms"
        )
    low, high = Trial(math.log(LOWEST), math.inf), Trial(math.log(HIGHEST), 0.0)
    tried: list[tuple[float, Forecast]] = []
    for step in range(MOST_FORECASTS):
        threshold = math.exp(between := _between(low, high, max_atoms))
        expected = forecast(x, rule._replace(threshold=threshold), max_atoms, budget, batch_size)
        tried.append((threshold, expected))
        near = abs(expected.n_atoms - max_atoms) <= NEAR * max_atoms
        if progress is not None:
            progress(MOST_FORECASTS if near else step + 1, MOST_FORECASTS)
        if near:
            break
        trial = Trial(between, expected.n_atoms)
        low, high = (trial, high) if expected.n_atoms > max_atoms else (low, trial)
    # Forecasts on a sample are not quite monotone, so the last one need not be the nearest.
    return min(tried, key=lambda one: abs(one[1].n_atoms - max_atoms))


class Trial(NamedTuple):
    """A threshold's logarithm and the number of atoms that was forecast for it."""

    log_threshold: float
    n_atoms: float


def _between(low: Trial, high: Trial, max_atoms: int) -> float:
    """Return the logarithm of the next threshold to try, in the middle four fifths between two."""
    share = 0.5
    if math.isfinite(low.n_atoms) and high.n_atoms > 0:
        share = math.log(low.n_atoms / max_atoms) / math.log(low.n_atoms / high.n_atoms)
        share = min(max(share, 0.1), 0.9)
    return low.log_threshold + share * (high.log_threshold - low.log_threshold)


def _grow_on(x: Tensor, rule: GrowthRule, max_atoms: int, batch_size: int | None) -> tuple[list[int], list[int]]:
    """Grow until the sample or the room ends; return how many were seen, and the atoms, before and after each batch."""
    prepared = PreparedAtoms(x.new_zeros(min(max_atoms, len(x)), x.shape[1]), 0)
    prepared.build_gram()
    seen, grown = [0], [0]
    while seen[-1] < len(x) and prepared.n < prepared.capacity:
        if batch_size is None:
            # Batches that grow with the dictionary come close to sequential growth at the price of frozen batches.
            size = 1 if prepared.n == 0 else min(max(prepared.n // 8, 8), 1024)
        else:
            size = min(batch_size, max(len(x) // FEWEST_BATCHES, 1))
        batch = x[seen[-1] : seen[-1] + size]
        prepared.place(prepared.n, grow_frozen_batch(batch, prepared, rule).atoms)
        seen.append(seen[-1] + len(batch))
        grown.append(prepared.n)
    return seen, grown
