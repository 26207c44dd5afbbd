"""Pivots that are chosen in panels are those of the plain loop, which removes one direction after another from all."""

from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from itda_lightning.growth import DUPLICATE_COSINE, GrowthRule
from itda_lightning.growth import pivoting as module
from itda_lightning.growth.pivoting import choose_pivots


def plainly(x: Tensor, rule: GrowthRule, bound: float, room: int) -> list[int]:
    """The definition: the worst becomes an atom, the direction of its residual is removed from all others at once."""
    residual, atoms, share = x.clone(), torch.nn.functional.normalize(x, dim=1), x.square().sum(1)
    chosen: list[int] = []
    while len(chosen) < room:
        worst = int(share.argmax())
        if float(share[worst]) <= rule.threshold:
            break
        cosine = atoms[chosen] @ atoms[worst]
        if bool(((cosine if rule.nonnegative else cosine.abs()) >= DUPLICATE_COSINE).any()):
            share[worst] = 0
            continue
        chosen.append(worst)
        component = residual @ torch.nn.functional.normalize(residual[worst], dim=0)
        if rule.nonnegative:
            component = component.clamp(min=0)
        large = component.square() > bound * share
        residual[large] -= torch.outer(component, torch.nn.functional.normalize(residual[worst], dim=0))[large]
        share[large] -= component[large].square()
        share[worst] = 0
    return chosen


def in_panels(x: Tensor, rule: GrowthRule, bound: float, room: int, panel: int, part: int) -> list[int]:
    atoms, share = torch.nn.functional.normalize(x, dim=1), x.square().sum(1)
    with mock.patch.object(module, "PANEL", panel), mock.patch.object(module, "PART", part):
        return choose_pivots(x.clone(), share, atoms, rule, bound, room).tolist()


def draw(m: int, d: int, seed: int) -> Tensor:
    """Activations of different energies that have much in common."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(m, max(1, d // 2), generator=generator, dtype=torch.float64)
    mixed = mixed @ torch.randn(max(1, d // 2), d, generator=generator, dtype=torch.float64)
    x = torch.nn.functional.normalize(mixed + 0.5 * torch.randn(m, d, generator=generator, dtype=torch.float64), dim=1)
    return x * (0.5 + torch.rand(m, 1, generator=generator, dtype=torch.float64))


@given(
    m=st.integers(0, 80),
    d=st.integers(2, 12),
    threshold=st.sampled_from([0.01, 0.2, 0.5]),
    nonnegative=st.booleans(),
    bound=st.sampled_from([0.0, 0.05, 0.2, 0.5, float("inf")]),
    room=st.integers(0, 80),
    panel=st.integers(1, 20),
    part=st.integers(1, 50),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_pivots_of_the_plain_loop(m, d, threshold, nonnegative, bound, room, panel, part, seed):
    x, rule = draw(m, d, seed), GrowthRule(4, "omp", nonnegative, threshold)
    assert in_panels(x, rule, bound, room, panel, part) == plainly(x, rule, bound, room)


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("panel", [1, 2, 5, 100])
def test_a_repeat_of_a_chosen_one_is_passed_over_in_any_panel(panel, nonnegative):
    one = draw(12, 6, seed=1)
    x = torch.cat([one, 0.9 * one, -0.8 * one, 0.7 * one])
    rule = GrowthRule(4, "omp", nonnegative, 0.01)
    chosen = in_panels(x, rule, float("inf"), 48, panel, 7)  # nothing is removed, so all but repeats are chosen
    assert chosen == plainly(x, rule, float("inf"), 48)
    assert sorted(chosen) == list(range(12)) + (list(range(24, 36)) if nonnegative else [])


@pytest.mark.parametrize("panel", [1, 3, 100])
def test_of_equally_bad_ones_the_first_is_chosen(panel):
    x = torch.eye(9, dtype=torch.float64)
    assert in_panels(x, GrowthRule(4, "omp", False, 0.2), 0.1, 9, panel, 4) == list(range(9))


def test_the_first_pivots_are_the_same_in_single_precision():
    x, rule = draw(3000, 48, seed=2), GrowthRule(4, "omp", False, 0.2)
    expected = plainly(x, rule, 0.05, 40)
    single = x.float()
    unit = torch.nn.functional.normalize(single, dim=1)
    assert choose_pivots(single.clone(), single.square().sum(1), unit, rule, 0.05, 40).tolist() == expected
    assert len(expected) == 40
