"""Calibration: dictionaries fill about when the budget ends."""

import math

import pytest
import torch

from itda_lightning.growth import (
    GrowthRule,
    calibrate_threshold,
    calibration,
    forecast,
    grow_frozen_batch,
    grow_sequential,
)
from itda_lightning.pursuit import PreparedAtoms
from tests.growth.naive import mixtures

RULE = GrowthRule(4, "mp", False, 0.5)


def test_the_dictionary_fills_about_when_the_budget_ends():
    rule = RULE._replace(pursuit="omp")  # the others calibrate the other pursuit
    x = mixtures(4000, 32, seed=0, dtype=torch.float32)
    threshold, expected = calibrate_threshold(x[::8], rule, 200, len(x))
    # What really happens on all activations, without a limit.
    grown = grow_sequential(x, PreparedAtoms(x.new_zeros(800, 32), 0), rule._replace(threshold=threshold))
    assert 100 <= len(grown.accepted) <= 400
    assert expected.n_atoms == pytest.approx(200, rel=0.2)
    # Growth goes with the logarithm of the data, where a tenth of the atoms is nearly a doubling of the data.
    assert 1 / 2 <= expected.fills_after / len(x) <= 2


@pytest.mark.long
def test_frozen_batches_fill_about_when_the_budget_ends():
    """The first batch becomes atoms as a whole, and every later one is judged by the dictionary before it."""
    sizes, batch_size = {}, 256
    x = mixtures(2000, 32, seed=0, dtype=torch.float32)
    for name, size in (("frozen batches", batch_size), ("one by one", None)):
        threshold = calibrate_threshold(x, RULE, 375, len(x), batch_size=size)[0]
        rule, prepared = RULE._replace(threshold=threshold), PreparedAtoms(x.new_zeros(1500, 32), 0)
        for part in x.split(batch_size):
            grown = grow_frozen_batch(part, prepared, rule)
            prepared.place(prepared.n, grown.atoms)
        sizes[name] = prepared.n
    assert sizes["frozen batches"] == pytest.approx(375, rel=0.15)
    assert abs(sizes["one by one"] - 375) > abs(sizes["frozen batches"] - 375)


def test_a_higher_threshold_forecasts_fewer_atoms():
    x = mixtures(600, 32, seed=1)
    sizes = [forecast(x, RULE._replace(threshold=t), 400, 6000).n_atoms for t in (0.05, 0.1, 0.2, 0.4, 0.6, 0.9)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 10 * sizes[-1]


@pytest.mark.long
def test_more_atoms_ask_for_a_lower_threshold():
    x = mixtures(300, 32, seed=2, dtype=torch.float32)
    thresholds = [calibrate_threshold(x, RULE, atoms, 3000)[0] for atoms in (25, 250)]
    assert thresholds == sorted(thresholds, reverse=True)
    assert thresholds[0] > 1.5 * thresholds[-1]


def test_steady_growth_is_extrapolated_as_it_is():
    # Every activation is a direction of its own: all are appended, so 900 fill after 900 and 2,000 give 2,000.
    x = torch.eye(500, dtype=torch.float64)
    assert forecast(x, RULE, 900, 2000).n_atoms == pytest.approx(2000)
    assert forecast(x, RULE, 900, 2000).fills_after == pytest.approx(900)


def test_growth_that_ended_never_fills():
    x = torch.eye(6, dtype=torch.float64).repeat(100, 1)
    assert forecast(x, RULE, 900, 10**6) == (pytest.approx(6), math.inf)


def test_a_dictionary_that_fills_within_the_sample():
    x = torch.eye(500, dtype=torch.float64)
    expected = forecast(x, RULE, 100, 2000)
    assert expected.n_atoms == math.inf
    assert 100 <= expected.fills_after <= 120


def test_the_first_activation_is_judged_before_any_other():
    x = torch.tensor([[1.0, 0.0], [0.9, 0.4]]).repeat(100, 1)  # either explains the other
    assert forecast(x, RULE, 50, 10**4).n_atoms == pytest.approx(1)


def test_a_sample_of_one():
    assert forecast(torch.ones(1, 4), RULE, 10, 100).n_atoms > 0


def test_a_forecast_that_is_near_enough_ends_the_search():
    asked = []
    x = mixtures(600, 32, seed=1)
    threshold, expected = calibrate_threshold(x, RULE, 200, 6000, lambda done, total: asked.append((done, total)))
    assert abs(expected.n_atoms - 200) <= 4
    assert len(asked) < 12
    assert asked[-1] == (12, 12)
    assert forecast(x, RULE._replace(threshold=threshold), 200, 6000) == expected


def test_progress_is_told():
    steps: list[tuple[int, int]] = []
    calibrate_threshold(mixtures(60, 8, seed=3), RULE, 20, 500, lambda done, total: steps.append((done, total)))
    assert steps == [(i, 12) for i in range(1, 13)]


def test_a_budget_below_the_number_of_atoms():
    with pytest.raises(
        ValueError, match=r"a budget of 1,000 activations cannot fill 2,000 atoms: raise training_tokens"
    ):
        calibrate_threshold(torch.ones(10, 4), RULE, 2000, 1000)


def test_logarithmic_growth_is_not_taken_for_a_power_law():
    # One new direction in each doubling (at 3, 6, ..., 768): 10 atoms after 1,024 activations are 20 after 1,048,576.
    new = {3 * 2**j: j + 1 for j in range(9)}
    x = torch.eye(10, dtype=torch.float64)[[new.get(i, 0) for i in range(1, 1025)]]
    assert forecast(x, RULE, 900, 2**20).n_atoms == pytest.approx(20)


@pytest.mark.parametrize(
    ("n_low", "n_high", "share"),
    [
        (1000, 10, 0.5),  # 100 atoms are half of the way, in logarithms
        (101, 1e-6, 0.1),
        (1e12, 99.0, 0.9),
        (math.inf, 10, 0.5),
        (200, 0, 0.5),
    ],
)
def test_the_next_threshold_lies_in_the_middle_four_fifths(n_low, n_high, share):
    log_threshold = calibration._between(calibration.Trial(-2.0, n_low), calibration.Trial(3.0, n_high), 100)
    assert log_threshold == pytest.approx(-2 + 5 * share)


@pytest.mark.parametrize("batch_size", [None, 64])
def test_growth_on_a_sample_starts_with_nothing_and_is_counted_after_each_batch(batch_size):
    x = mixtures(256, 32, seed=0, dtype=torch.float32)
    seen, grown = calibration._grow_on(x, RULE, 200, batch_size)
    assert (seen[0], grown[0]) == (0, 0)
    assert seen[-1] == len(x) or grown[-1] == 200
    assert seen == sorted(set(seen))
    assert len(grown) == len(seen)
    prepared = PreparedAtoms(x.new_zeros(200, 32), 0)
    for start, stop, n in zip(seen[:-1], seen[1:], grown[1:], strict=True):
        prepared.place(prepared.n, grow_frozen_batch(x[start:stop], prepared, RULE).atoms)
        assert prepared.n == n
