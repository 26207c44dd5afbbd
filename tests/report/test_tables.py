"""Tables on the terminal."""

import io
import unicodedata

import pytest
from rich.console import Console

from itda_lightning.dictionary.sources import Prompt
from itda_lightning.report.terminal import print_decomposition, print_metrics, print_seconds
from itda_lightning.report.words.excerpt import LONGEST_TOKEN, excerpt, visible
from itda_lightning.report.words.wording import METRICS, show_share
from itda_lightning.results.run_results import Term, TokenDecomposition
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
    print_decomposition(TokenDecomposition(Prompt("a ", "dog", " ran"), 0.125, 10.0, terms, 7.5), console)
    text = printed(console)
    assert "a [dog] ran" in text
    assert "norm 10 (7.5 from the dictionary's mean), 12% unexplained" in text
    assert "negative coefficient: the activation points away from the atom" in text
    rows = [line.split(maxsplit=2) for line in text.splitlines()]
    assert ["12", "9.50", "the [cat] sat"] in [[cell.strip() for cell in row] for row in rows]
    assert ["7", "\N{MINUS SIGN}0.250", "unknown"] in [[cell.strip() for cell in row] for row in rows]


def test_seconds_are_printed_with_their_sum(console):
    print_seconds({"fit": 70.4, "page [red]": 9.3}, "where the time went", console)
    rows = [line.strip().rsplit(maxsplit=1) for line in printed(console).splitlines() if line.strip()]
    assert [cell.strip() for cell in rows[0]] == ["where the time went", "seconds"]
    assert [[cell.strip() for cell in row] for row in rows if row[-1].isdigit()] == [
        ["fit", "70"],
        ["page [red]", "9"],
        ["all", "80"],
    ]


def test_tables_fit_80_columns_line_by_line():
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    print_metrics(dict.fromkeys(METRICS, 1234.5), console)
    assert len([line for line in printed(console).splitlines() if line.strip()]) == len(METRICS) + 2
    long = Prompt("word " * 100, " token", " and so on" * 20)
    print_decomposition(TokenDecomposition(long, 0.1, 1.0, (Term(12345, -123.25, long),)), console)
    lines = printed(console).splitlines()
    assert max(map(len, lines)) <= 80
    assert len([line for line in lines if "[ token]" in line]) == 2
    row = next(line for line in lines if "12345" in line)
    assert "\N{MINUS SIGN}123" in row
    assert row.rstrip().endswith("…")


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


def test_only_what_controls_a_terminal_or_the_direction_of_text_is_replaced():
    directions = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    for character in map(chr, [*range(0x3000), *range(0xD700, 0xE100), *range(0xFE00, 0x10100), 0x1F642, 0xE0041]):
        control = unicodedata.category(character) in ("Cc", "Cs") or character in "\u2028\u2029"
        harmful = control or unicodedata.bidirectional(character) in directions
        assert (visible(character) == character) == (not harmful), hex(ord(character))


@pytest.mark.parametrize(
    ("token", "shown"), [("  ", "␣␣"), ("", "∅"), ("\n", "⏎"), ("\r\n", "⏎"), (" a", " a"), ("\ud800", "\ufffd")]
)
def test_a_token_that_would_not_show_is_made_visible(token, shown):
    assert excerpt(Prompt("", token, ""), 9, 9).token == shown


def test_a_special_token_is_shown_whole_or_not_at_all():
    prompt = Prompt("<|im_start|>abc", "d", "e</s>f")
    assert excerpt(prompt, 15, 9) == ("<|im_start|>abc", "d", "e</s>f")
    for before in range(3, 15):
        assert excerpt(prompt, before, 9).before == "…abc"
    for after in range(1, 5):
        assert excerpt(prompt, 9, after).after == "e…"
    assert excerpt(prompt, 9, 5).after == "e</s>…"


def test_a_token_that_is_longer_than_a_line_is_cut():
    assert excerpt(Prompt("", "-" * 200, ""), 9, 9).token == "-" * LONGEST_TOKEN + "…"
    assert excerpt(Prompt("", " " * 200, ""), 9, 9).token == "␣" * LONGEST_TOKEN + "…"


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0.0, "0%"), (0.04, "4.0%"), (0.125, "12%"), (1.0, "100%"), (0.999, "100%"), (0.2, "20%"), (0.000123, "0.012%")],
)
def test_shares_have_two_significant_digits(share, shown):
    assert show_share(share) == shown
