"""The rounds of worst-first growth: what is removed from residuals follows from the round before."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from itda_lightning.growth import GrowthRule
from itda_lightning.growth import worst_first as module
from itda_lightning.pursuit import PreparedAtoms
from tests.growth.naive import mixtures


def test_how_large_a_removed_component_is_follows_from_what_failed_again(monkeypatch):
    """The share from which on components are removed changes by how many of those taken for explained still fail."""
    seen: list[tuple[int, float, int]] = []  # of each round: how many fail, the bound, how many become atoms
    pivots = module.choose_pivots

    def watched(residual: Tensor, share: Tensor, atoms: Tensor, rule: GrowthRule, bound: float, room: int) -> Tensor:
        n_failing = len(share)
        chosen = pivots(residual, share, atoms, rule, bound, room)
        seen.append((n_failing, bound, len(chosen)))
        return chosen

    monkeypatch.setattr(module, "choose_pivots", watched)
    x = mixtures(600, 48, seed=0, dtype=torch.float32)
    module.grow_worst_first(x, PreparedAtoms(x.new_zeros(600, 48), 0), GrowthRule(4, "mp", False, 0.3))
    bounds = [bound for _, bound, _ in seen]
    assert bounds[0] == pytest.approx(module.STANDS_OUT / math.sqrt(4 * 48))
    assert len(set(bounds)) >= 3
    for (failing, bound, chosen), (again, following, _) in itertools.pairwise(seen):
        share = max(again / (failing - chosen), module.LEAST_FAILING)
        expected = min(bound * share / module.FAILING_AGAIN, module.LARGEST_BOUND)
        assert following in (pytest.approx(expected, rel=1e-6), float("inf"))  # infinite if all that fail become atoms
