"""SAEs whose loss was still falling when their training ended are called under-trained, others are not."""

import io
import math
import random
from dataclasses import replace

import pytest
from rich.console import Console

from itda_lightning.report.pages.comparison_page import render_dashboard
from itda_lightning.report.terminal import print_comparison
from itda_lightning.report.words.falling_loss import still_falling, under_trained
from itda_lightning.results.comparison import Comparison, Estimate, Row

# Shares at which a training of this package measures its curve, for a learning rate that decays in the last fifth.
SHARES = (0.001, 0.01, 0.1, 0.35, 0.6, 0.65, 0.7, 0.75, 0.8, 1.0)


def trained(fvu, shares=SHARES, decay_from: float | None = 0.8, **others) -> Row:
    """An SAE with the FVU as a function of the share of the training."""
    curve = tuple((round(share * 100_000), fvu(share)) for share in shares)
    measures = {"fvu": Estimate(curve[-1][1], 0.01), "l0": Estimate(32.0)}
    return replace(Row("TopK SAE", "sae", "topk", 64, measures=measures, curve=curve, decay_from=decay_from), **others)


def noise(seed: int, size: float):
    chance = random.Random(seed)
    return lambda _: 0.5 * (1 + chance.gauss(0, size))


def test_a_loss_that_falls_before_the_learning_rate_decays():
    row = trained(lambda share: 0.8 - 0.2 * share)
    assert under_trained([row]) == [
        "TopK SAE is under-trained: its loss was still falling when its learning rate began to decay (FVU 0.64, 0.66 a "
        "tenth of the training before), so it would be better if trained longer."
    ]


@pytest.mark.parametrize("decay_from", [1.0, None])
def test_a_loss_that_falls_to_the_end(decay_from):
    row = trained(lambda share: 0.844 - 0.2 * share, (0.01, 0.1, 0.8, 0.85, 0.9, 0.95, 1.0), decay_from)
    assert under_trained([row]) == [
        "TopK SAE is under-trained: its loss was still falling when it ended (FVU 0.644, 0.664 a tenth of the training "
        "before), so it would be better if trained longer."
    ]


@pytest.mark.parametrize(("fall", "claimed"), [(0.0120, True), (0.0080, False), (-0.05, False), (0.0, False)])
def test_a_fall_of_one_percent_per_fifth_counts(fall, claimed):
    assert bool(still_falling(trained(lambda share: 0.5 * (1 + fall * (0.8 - share) / 0.2)))) is claimed


@pytest.mark.parametrize(("size", "claimed"), [(0.002, True), (0.03, False)])
def test_a_fall_within_the_error_of_its_slope_does_not(size, claimed):
    jitter = dict(zip(SHARES, (0, 0, 0, 0, 1, -1, 0.5, -1, 1, 0), strict=True))
    row = trained(lambda share: 0.5 * (1 + 0.04 * (0.8 - share) / 0.2 + size * jitter[share]))
    assert bool(still_falling(row)) is claimed


def test_of_losses_that_have_settled_few_are_called_falling():
    called = sum(still_falling(trained(noise(seed, 0.01))) is not None for seed in range(400))
    assert called <= 16  # one-sided, three standard errors with three degrees of freedom: 2.9%


def test_a_fall_that_comes_from_the_decay_alone_does_not_count():
    assert still_falling(trained(lambda share: 0.5 if share <= 0.8 else 0.4)) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"curve": ()},
        {"curve": ((50_000, 0.9), (100_000, 0.5))},  # of versions that measured it at equal ratios only
        {"curve": tuple((round(1000 * 2**step), 0.9**step) for step in range(12))},
        {"curve": tuple((80_000 + step, math.nan) for step in range(10))},
        {"curve": ((0, 0.9),) * 6},
        {"kind": "itda"},
        {"failure": "gone"},
    ],
)
def test_nothing_is_claimed_of_an_unknown_curve_or_of_an_itda(changes):
    assert still_falling(replace(trained(lambda share: 1 - share), **changes)) is None


def test_the_page_and_the_terminal_say_it():
    row, settled = trained(lambda share: 0.8 - 0.2 * share), replace(trained(lambda _: 0.5), name="Settled")
    comparison = Comparison("A title", {}, (row, settled))
    words = "its loss was still falling when its learning rate began to decay (FVU 0.64, 0.66 a tenth of"
    written = io.StringIO()
    page, console = render_dashboard(comparison), Console(file=written, width=300)
    assert f'<li class="under-trained">TopK SAE is under-trained: {words}' in page
    assert page.count(">under-trained</small>") == 1
    print_comparison(comparison, console)
    assert f"TopK SAE is under-trained: {words}" in written.getvalue()
    assert "Settled is under-trained" not in written.getvalue()
