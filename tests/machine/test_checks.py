"""Range checks."""

import pytest

from itda_lightning.errors import InputError
from itda_lightning.machine.checks import check_at_least, check_between, check_choice, check_seed


def test_values_in_range_pass():
    check_at_least(1, {"a": 1, "b": None, "c": 2.5})
    check_between(0, 1, {"a": 0, "b": 1, "c": None})
    check_seed({"a": 0, "b": 2**32 - 1, "c": None})
    check_choice(("mp", "omp"), {"pursuit": "mp"})


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: check_at_least(1, {"good": 3, "run.k": 0}), "run.k must be at least 1, got 0"),
        (lambda: check_at_least(2000, {"x": 1999}, "give more"), "x must be at least 2,000, got 1,999: give more"),
        (lambda: check_at_least(0, {"x": float("nan")}), "x must be at least 0, got nan"),
        (lambda: check_between(0.8, 1, {"x": 1.5}), "x must lie between 0.8 and 1, got 1.5"),
        (lambda: check_between(0, 1, {"x": float("nan")}, "a share"), "x must lie between 0 and 1, got nan: a share"),
        (
            lambda: check_at_least(0, {"x": 2**60}),
            f"x must be at most {2**53:,}, got {2**60:,}",
        ),
        (
            lambda: check_seed({"x": 2**32}),
            f"x must lie between 0 and {2**32 - 1:,}, got {2**32:,}: it is a seed of 32 bits",
        ),
        (lambda: check_choice({"a": 1, "b": 2}, {"x": "c"}), "x must be one of ('a', 'b'), got 'c'"),
    ],
)
def test_a_refusal_names_what_is_allowed_and_what_was_given(check, message):
    with pytest.raises(InputError) as refused:
        check()
    assert str(refused.value) == message
