"""Numbers with errors: never more digits than are known."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itda_lightning.report.words.wording import (
    MINUS,
    describe_metric,
    show_bytes,
    show_estimate,
    show_magnitude,
    show_seconds,
)

finite = st.floats(-1e12, 1e12, allow_nan=False).filter(lambda value: value == 0 or abs(value) > 1e-12)
errors = st.floats(1e-9, 1e9)


def parse(text: str) -> float:
    return float(text.replace(",", "").replace(MINUS, "-"))


def decimals(text: str) -> int:
    return len(text.partition(".")[2])


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (0.17234, 0.00211, "0.1723 ± 0.0021"),
        (3.6238, 0.021, "3.624 ± 0.021"),
        (0.5, 0.0996, "0.50 ± 0.10"),
        (123_456.0, 1234.0, "123,500 ± 1,200"),
        (12.0, 34.0, "12 ± 34"),
        (-0.001, 0.5, "0.00 ± 0.50"),
        (-1.5, 0.25, f"{MINUS}1.50 ± 0.25"),
        (32.0, 0.0, "32 ± 0"),
        (32.0, 1e-12, "32 ± 0"),
        (0.123456, None, "0.1235"),
        (0.123456, math.nan, "0.1235"),
        (16_384, None, "16,384"),
        (math.nan, 0.1, "not measured"),
    ],
)
def test_an_estimate_is_rounded_to_its_errors_first_two_digits(value, error, shown):
    assert show_estimate(value, error) == shown


@given(finite, errors)
def test_no_more_digits_than_known(value, error):
    shown, separator, shown_error = show_estimate(value, error).partition(" ± ")
    assert separator
    if shown_error == "0":
        assert error <= 1e-6 * abs(value)
        return
    assert decimals(shown) == decimals(shown_error)
    digits = re.sub(r"[.,]", "", shown_error).lstrip("0")
    assert len(digits.rstrip("0")) <= 2
    # What is left out is less than half of the last digit that the error has, and that digit is at least a 99th of it.
    unit = 10.0 ** (math.floor(math.log10(parse(shown_error)) + 1e-9) - 1)
    assert abs(parse(shown) - value) <= 0.5000001 * unit + 1e-9 * abs(value)
    assert abs(parse(shown_error) - error) <= 0.5000001 * unit
    assert not shown.startswith(MINUS) or parse(shown) != 0


@given(st.integers(-(10**12), 10**12))
def test_a_count_is_an_integer(count):
    assert parse(show_estimate(count)) == count
    assert "." not in show_estimate(count)


@given(finite)
def test_without_an_error_there_are_four_digits_at_most(value):
    shown = show_estimate(value).replace(MINUS, "-").replace(",", "")
    assert float(shown) == pytest.approx(value, rel=6e-4)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.1234, "0.123 s"), (17.0, "17 s"), (119.0, "119 s"), (458.0, "7.63 min"), (9000.0, "2.5 h"), (2e5, "2.31 days")],
)
def test_times_have_the_unit_that_fits(seconds, shown):
    assert show_seconds(seconds) == shown


@pytest.mark.parametrize(
    ("size", "shown"), [(512, "512 B"), (2_254_857_830, "2.1 GiB"), (1023 * 1024, "0.999 MiB"), (3 * 2**40, "3 TiB")]
)
def test_sizes_have_the_unit_that_fits(size, shown):
    assert show_bytes(size) == shown


@pytest.mark.parametrize(("value", "shown"), [(4_718_592, "4.72M"), (999_900, "1M"), (27_900.0, "27.9k"), (12, "12")])
def test_magnitudes_have_three_digits(value, shown):
    assert show_magnitude(value) == shown


def test_probes_are_described_whatever_their_number_of_latents():
    assert describe_metric("probing/k=1") == ("Probe, 1 latent", "accuracy of a probe on the best latent")
    assert describe_metric("probing/k=16") == ("Probe, 16 latents", "accuracy of a probe on the 16 best latents")
    assert describe_metric("probing_auc/all") == ("Probe AUC, all latents", "AUC of a probe on the whole code")
    detected = ("Probe, 2 detected", "accuracy of a probe on the 2 best latents by cosine")
    assert describe_metric("probing/detected k=2") == detected
    assert describe_metric("probing/dense")[1] == "accuracy of a probe without any dictionary"
