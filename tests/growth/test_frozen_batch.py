"""Frozen-batch growth appends every failure of a batch, but for repeats and what no longer fits."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from itda_lightning.growth import Growth, GrowthRule, grow_frozen_batch, grow_sequential
from tests.growth.naive import ROUNDING, limit_of, mixtures, residual_energy
from tests.pursuit.forms import DTYPES, FORMS, with_room

PURSUITS = [("mp", False), ("mp", True), ("omp", False), ("omp", True)]
RULE = GrowthRule(2, "mp", False, 1e-6)


def grow(x: Tensor, start: Tensor, capacity: int, rule: GrowthRule, form: str = "torch gram") -> Growth:
    return grow_frozen_batch(x, with_room(start, capacity, form), rule)


def axes(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("pursuit", "nonnegative"), PURSUITS)
@pytest.mark.parametrize("exponent", [1.0, 0.6])
def test_every_failure_is_appended_in_order(pursuit, nonnegative, dtype, exponent):
    x = mixtures(150, 20, seed=1, dtype=dtype)
    start = torch.nn.functional.normalize(x[:30], dim=1)
    rule = GrowthRule(3, pursuit, nonnegative, 0.2, exponent, 20.0)
    dictionary, rows = start.double().numpy(), x[30:].double().numpy()
    expected = np.array([residual_energy(own, row, dictionary, rule) for own, row in zip(x[30:], rows, strict=True)])
    limits, energy = np.array([limit_of(row, rule) for row in rows]), x[30:].double().square().sum(1).numpy()
    assert (abs(expected - limits) > ROUNDING[x.dtype] * energy).all(), "no decision is left to rounding"
    failures = np.flatnonzero(expected > limits).tolist()
    assert 10 < len(failures) < 110
    for form in (form for form in FORMS if DTYPES[form] == dtype):
        grown = grow(x[30:], start, 150, rule, form)
        assert grown.accepted.tolist() == failures, form
        assert torch.equal(grown.atoms, torch.nn.functional.normalize(x[30:][failures], dim=1)), form
        assert (abs(grown.residual_energy.double().numpy() - expected) <= ROUNDING[dtype] * energy).all(), form


def test_failures_are_cropped_at_the_capacity():
    x = mixtures(50, 20, seed=2)
    everything = grow(x, x[:0], 50, GrowthRule(3, "mp", False, 0.1))
    some = grow(x, x[:0], 7, GrowthRule(3, "mp", False, 0.1))
    assert len(everything.accepted) > 40
    assert some.accepted.tolist() == everything.accepted.tolist()[:7]
    assert some.atoms.shape == (7, 20)


def test_a_full_dictionary_takes_nothing():
    x = mixtures(20, 6, seed=3)
    grown = grow(x, torch.nn.functional.normalize(x[:4], dim=1), 4, RULE)
    assert grown.accepted.tolist() == []
    assert grown.atoms.shape == (0, 6)
    assert grown.residual_energy.shape == (20,)


@pytest.mark.parametrize("nonnegative", [False, True])
def test_repeats_within_the_batch(nonnegative):
    x = axes([1, 0, 0], [2, 0, 0], [0, 1, 0], [3, 0.09, 0], [-1, 0, 0], [1, 0.06, 0], [0, 5, 0.1])
    rule = RULE._replace(nonnegative=nonnegative)
    # 3, .09 has a cosine of .99955 with the first, 1, .06 one of .9982; 0, 5, .1 one of .9998 with the third.
    assert grow(x, x[:0], 9, rule).accepted.tolist() == ([0, 2, 4, 5] if nonnegative else [0, 2, 5])


def test_a_repeat_of_a_repeat_that_was_left_out_is_kept_where_it_is_no_repeat_itself():
    # Each is .9992 from its neighbour and .9969 from the one after that: the middle goes, its neighbours stay.
    angles = torch.tensor([0.0, 0.04, 0.08], dtype=torch.float64)
    x = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert grow(x, x[:0], 3, RULE._replace(k=1)).accepted.tolist() == [0, 2]


@pytest.mark.parametrize("nonnegative", [False, True])
def test_repeats_of_the_dictionary_under_a_tiny_threshold(nonnegative):
    x = axes([1, 0.03, 0], [-1, 0.03, 0], [1, 0.06, 0])
    grown = grow(x, axes([1, 0, 0]), 9, GrowthRule(1, "mp", nonnegative, 1e-6))
    assert grown.accepted.tolist() == ([1, 2] if nonnegative else [2])


@given(seed=st.integers(0, 2**32 - 1), threshold=st.sampled_from([1e-6, 0.01, 0.2, 0.5]), d=st.integers(1, 8))
def test_no_two_atoms_are_nearly_equal(seed, threshold, d):
    x = mixtures(40, d, seed, common=5.0)
    x = torch.cat([x, 2 * x[:10]])
    start = torch.nn.functional.normalize(x[:1], dim=1)
    grown = grow(x, start, 60, GrowthRule(1, "mp", False, threshold))
    atoms = torch.cat([start, grown.atoms])
    assert float((atoms @ atoms.T).abs().fill_diagonal_(0).max()) < 0.999


def test_one_activation_at_a_time_is_sequential_growth():
    x = mixtures(120, 16, seed=5)
    rule = GrowthRule(3, "omp", False, 0.2)
    accepted: list[int] = []
    for index in range(120):
        start = torch.nn.functional.normalize(x[accepted], dim=1)
        if len(grow(x[index : index + 1], start, 120, rule).accepted):
            accepted.append(index)
    assert accepted == grow_sequential(x, with_room(x[:0], 120, "torch residual"), rule).accepted.tolist()
