"""The geometry of plots that compare entries."""

import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itda_lightning.report.figures.axes import fitted_axis, log_values
from itda_lightning.report.figures.densities import density_overlay, density_shares
from itda_lightning.report.figures.methods import CORNERS, Method, marker, methods_of
from itda_lightning.report.figures.scatter import LARGEST, SMALLEST, Point, pareto_front, radius, scatter
from itda_lightning.results.comparison import Estimate, Row
from tests.report.comparisons import realistic_rows

METHOD = Method("m", "blue", "circle", "")
places = st.tuples(st.floats(0.1, 100), st.floats(0.1, 100))


def point(number: int, x: float, y: float, error: float | None = None, **options) -> Point:
    return Point(number, Estimate(float(x)), Estimate(float(y), error), METHOD, 4.0, str(number), **options)


def plot(points, **options):
    return scatter(points, x_label="x", y_label="y", summary="s", **options)


@given(st.lists(places, min_size=1, max_size=30))
def test_nothing_is_better_than_what_is_on_the_front(some):
    front = pareto_front(some)
    for x, y in front:
        assert not any(a <= x and b <= y and (a, b) != (x, y) for a, b in some)
    for a, b in some:
        assert any(x <= a and y <= b for x, y in front)


@given(st.floats(1e-6, 1e6), st.floats(1.001, 1e9))
def test_logarithmic_axes_have_some_ticks_inside(low, ratio):
    values = log_values(low, low * ratio)
    assert all(low <= value <= low * ratio for value in values)
    assert 1 <= len(values) <= 11
    assert values == sorted(set(values))


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=9), st.booleans())
def test_axes_hold_their_values(values, log):
    axis = fitted_axis(values, 300.0, 10.0, log=log)
    assert all(9.9 <= axis.place(value) <= 300.1 for value in values)


def test_more_and_less_share_no_place():
    drawn = plot([point(1, 10, 0.5), point(2, 100, 0.1), point(3, 100, 0.9)], front=True)
    assert len(drawn.marks) == 3
    assert re.fullmatch(r"M[\d.]+ [\d.]+H[\d.]+V[\d.]+H[\d.]+", drawn.front)


def test_what_has_no_place_is_left_out():
    assert plot([point(1, math.nan, 1), point(2, 0, 1), point(3, 1, math.inf)]) is None
    assert plot([]) is None
    drawn = plot([point(1, 10, 0.0), point(2, 10, 0.5)], log_y=True)
    assert [mark.number for mark in drawn.marks] == [2]
    assert not any("nan" in mark.shape + mark.bars for mark in drawn.marks)


def test_a_span_of_a_decade_makes_the_axis_logarithmic():
    assert plot([point(1, 10, 0.1), point(2, 10, 1.5)]).y_label == "y (log)"
    assert plot([point(1, 10, 0.1), point(2, 10, 0.5)]).y_label == "y"


def ends_of(bars: str) -> tuple[float, float]:
    """The lower and the upper end of a vertical error bar, in view-box units."""
    low, high = map(float, re.fullmatch(r"M[\d.]+ ([\d.]+)V([\d.]+)", bars).groups())
    return low, high


@pytest.mark.parametrize("log_y", [False, True])
def test_error_bars_are_as_long_as_the_errors(log_y):
    drawn = plot([point(1, 10, 0.2, 0.05), point(2, 10, 0.4, None)], log_y=log_y)
    bars = {mark.number: mark.bars for mark in drawn.marks}
    assert bars[2] == ""
    # The scale, from the two labelled ticks farthest apart and not from the code that draws the bar.
    measure = math.log if log_y else float
    first, *_, last = drawn.y.ticks
    units = (first.at - last.at) / (measure(float(last.label)) - measure(float(first.label)))
    low, high = ends_of(bars[1])
    assert low - high == pytest.approx(units * (measure(0.25) - measure(0.15)), abs=0.03)
    assert low == pytest.approx(first.at - units * (measure(0.15) - measure(float(first.label))), abs=0.03)


def test_a_bar_that_would_reach_zero_ends_at_a_tenth_of_its_value_on_a_logarithmic_axis():
    drawn = plot([point(1, 10, 0.2, 0.5)], log_y=True)
    low, high = ends_of(drawn.marks[0].bars)
    decade = (drawn.y.place(0.1) - drawn.y.place(1.0)) / 1
    assert low - high == pytest.approx(decade * math.log10(0.7 / 0.02), abs=0.03)


def test_a_curve_is_a_line_and_a_rule_is_in_sight():
    drawn = plot([point(1, 100, 0.2, curve=((10.0, 0.5), (50.0, math.nan), (100.0, 0.2)))], rule=(0.05, "alone"))
    assert drawn.lines[0].path.count("L") == 1
    assert drawn.y.end <= drawn.rule.at <= drawn.y.start


def test_numbers_stand_apart_where_there_is_room():
    drawn = plot([point(1, 10, 0.2), point(2, 10.1, 0.2001), point(3, 90, 0.9)])
    labels = {mark.number: mark.label for mark in drawn.marks}
    assert math.dist(labels[1], labels[2]) > 8


def test_marks_grow_with_the_width():
    assert radius(1024, [1024, 4096]) == SMALLEST
    assert radius(4096, [1024, 4096]) == pytest.approx(LARGEST)
    assert SMALLEST < radius(2048, [1024, 4096]) < LARGEST
    assert SMALLEST < radius(0, [0, 4096]) < LARGEST


@pytest.mark.parametrize("shape", [*CORNERS, "circle", "star", "cross", "plus"])
def test_every_shape_is_around_its_centre(shape):
    path = marker(shape, 100.0, 50.0, 5.0)
    assert path.startswith("M")
    if shape != "circle":
        corners = [tuple(map(float, pair.split())) for pair in re.findall(r"[\d.]+ [\d.]+", path)]
        assert all(2 < math.dist(corner, (100, 50)) < 8 for corner in corners)


def test_methods_differ_in_more_than_colour():
    found = set(methods_of(row for row in realistic_rows() if row.failure is None).values())
    assert len({method.shape for method in found}) == len(found) == 9
    assert len({(method.colour, method.shape) for method in found}) == len(found)
    many = methods_of(Row(f"e{i}", "sae", f"kind {i}") for i in range(20))
    assert len(many) == 20


def test_densities_share_their_bins_and_leave_the_dead_out():
    low, shares = density_shares([[0.0, 0.01, 0.02, 0.5], [0.001]])
    assert low == -3
    assert [sum(values) for values in shares] == [0.75, 1.0]
    assert len({len(values) for values in shares}) == 1
    assert density_overlay([(1, METHOD, [0.0, 0.0])]) is None
    assert density_overlay([]) is None
    overlay: Any = density_overlay([(1, METHOD, [0.0]), (4, METHOD, [0.1])])
    assert [line.number for line in overlay.lines] == [4]
