"""A comparison on the terminal."""

import dataclasses
import io

import pytest
from rich.console import Console

from itda_lightning.report.terminal import print_comparison
from itda_lightning.results.comparison import Comparison, Row
from tests.report.comparisons import realistic
from tests.report.test_dashboard import hostile


def printed(comparison: Comparison, width: int = 140) -> str:
    output = io.StringIO()
    print_comparison(comparison, Console(file=output, width=width, force_terminal=False))
    return output.getvalue()


def test_entries_are_printed_with_their_errors_and_what_failed_with_its_reason():
    text = printed(realistic(5))
    line = next(line for line in text.splitlines() if line.strip().startswith("itda-mp-4k"))
    assert line.split()[:10] == ["itda-mp-4k", "4,096", "30.700", "±", "0.070", "0.1720", "±", "0.0021", "0.1056", "±"]
    assert "topk-1000k (reused)" in text
    assert "gemma-scope failed: the release 'gemma-scope' is of another model" in text
    assert "FVU: itda-omp-16k, an ITDA, is best at 0.1065 ± 0.0013." in text


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_tables_fit_and_cut_no_number(width):
    text = printed(realistic(5), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert ("Probe all" in text) == (width == 200)


def test_text_is_neither_markup_nor_a_command_to_the_terminal():
    comparison = dataclasses.replace(hostile(), title="[red]x[/red]")
    comparison = dataclasses.replace(comparison, rows=(*comparison.rows, Row("[bold]", "sae", failure="[/] \x1b[31m")))
    text = printed(comparison)
    assert "[red]x[/red]" in text
    assert "[bold] failed: [/] ␛[31m" in text
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_only_failures_make_no_table():
    text = printed(Comparison("t", {}, (Row("a", "sae", failure="gone"),)))
    assert text.splitlines() == ["a failed: gone", "0 of 1 entries have results. Failed: a."]
