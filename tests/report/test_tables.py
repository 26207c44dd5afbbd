"""Tables on the terminal."""

import io

import pytest
from rich.console import Console

from itda_lightning.evaluation.results import Term, TokenDecomposition
from itda_lightning.report import print_decomposition, print_metrics
from itda_lightning.report.excerpt import excerpt
from itda_lightning.sources import Prompt
from tests.report.conftest import HOSTILE


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=140, force_terminal=False)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_metrics_are_printed_in_their_order(console):
    print_metrics({"n_atoms": 4096, "fvu": 0.123456, "own_metric": float("nan")}, console)
    lines = [line.split() for line in printed(console).splitlines() if line.strip()]
    assert lines[2][:2] == ["Atoms", "4,096"]
    assert lines[3][:2] == ["FVU", "0.1235"]
    assert lines[4] == ["own", "metric", "not", "measured"]


def test_a_decomposition_shows_atoms_coefficients_and_prompts(console):
    terms = (Term(12, 9.5, Prompt("the ", "cat", " sat")), Term(7, -0.25, None))
    print_decomposition(TokenDecomposition(Prompt("a ", "dog", " ran"), 0.125, 10.0, terms), console)
    text = printed(console)
    assert "a dog ran" in text
    assert "norm 10, 12% unexplained" in text
    rows = [line.split(maxsplit=2) for line in text.splitlines()]
    assert ["12", "9.50", "the cat sat"] in [[cell.strip() for cell in row] for row in rows]
    assert ["7", "\N{MINUS SIGN}0.250", "unknown"] in [[cell.strip() for cell in row] for row in rows]


def test_the_token_is_marked_on_a_terminal():
    console = Console(file=io.StringIO(), width=140, force_terminal=True, color_system="standard")
    print_decomposition(TokenDecomposition(Prompt("a ", "dog", " ran"), 0.1, 1.0, ()), console)
    assert "\x1b[1;4;33mdog\x1b[0m" in printed(console)


def test_text_is_neither_markup_nor_a_command_to_the_terminal(console):
    terms = tuple(Term(i, 1.0, prompt) for i, prompt in enumerate(HOSTILE))
    print_decomposition(TokenDecomposition(HOSTILE[1], 0.1, 1.0, terms), console)
    text = printed(console)
    assert "[red]markup[/red]" in text
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_terms_left_out_are_counted(console):
    terms = tuple(Term(i, 9.0 - i, None) for i in range(9))
    print_decomposition(TokenDecomposition(HOSTILE[2], 0.1, 1.0, terms), console, max_terms=4)
    assert "and 5 more" in printed(console)


def test_an_excerpt_keeps_the_token_and_what_stands_beside_it():
    assert excerpt(Prompt("0123456789", "token", "abcdef"), 4, 3) == ("…6789", "token", "abc…")
    assert excerpt(Prompt("ab", "token", "cd"), 4, 3) == ("ab", "token", "cd")
    assert excerpt(Prompt("ab", "token", "cd"), 0, 0) == ("…", "token", "…")


@pytest.mark.parametrize(
    ("token", "shown"), [("  ", "␣␣"), ("", "∅"), ("\n", "⏎"), ("\r\n", "⏎"), (" a", " a"), ("\ud800", "\ufffd")]
)
def test_a_token_that_would_not_show_is_made_visible(token, shown):
    assert excerpt(Prompt("", token, ""), 9, 9).token == shown
