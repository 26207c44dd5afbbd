"""The page and the table of a difference of two models: complete, safe, sortable."""

import dataclasses
import io
import json

import pytest
from rich.console import Console
from selenium.webdriver.common.by import By

from itda_lightning.dictionary.sources import Source
from itda_lightning.report.pages.model_pages import render_difference, write_difference_page
from itda_lightning.report.terminal import RANKED, print_difference
from itda_lightning.results.as_json import from_json, to_json
from itda_lightning.results.difference import AtomDifference, Difference, Direction
from tests.report.conftest import HOSTILE
from tests.report.test_page import Page

N = 12


def atom_difference(rank: int, one_width: bool = True) -> AtomDifference:
    source = Source(rank % 3, 2 * rank, 7, 1234, 100, 104)
    own = 0.9 - 0.0625 * rank if one_width else None
    left = 0.05 if one_width else 0.5 - 0.03 * rank
    return AtomDifference(100 - rank, source, HOSTILE[rank % len(HOSTILE)], rank % 2 == 0, left, own, own)


@pytest.fixture
def difference() -> Difference:
    atoms = tuple(map(atom_difference, range(N)))
    return Difference(
        title="<b>base</b> and other",
        facts={"base": "<i>m</i>", "documents": "https://example.org/d"},
        directions=(
            Direction("base", "other", N + 3, 40, 2, 1, atoms),
            Direction("other", "base", N, 40, 0, 0, tuple(atom_difference(rank, False) for rank in range(N))),
        ),
    )


def test_the_excess_is_what_the_own_share_is_above_the_others() -> None:
    atom = atom_difference(2)
    assert atom.excess == pytest.approx(0.9 - 2 * 0.0625 - 0.05)
    assert dataclasses.replace(atom, unexplained_own=None).excess == atom.unexplained


def test_results_come_back_from_json(difference) -> None:
    assert from_json(to_json(difference), Difference) == difference
    assert json.loads(to_json(difference))["format"] == "itda_lightning.difference"


def test_text_from_data_never_becomes_markup(difference) -> None:
    page = Page(render_difference(difference, 500))
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == 1
    assert not {"img", "b", "i", "u", "iframe", "object", "link"} & set(tags)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "<b>base</b> and other" in page.texts
    # One mark is in the words above the tables.
    assert len(page.marks) == 2 * N + 1
    assert {prompt.token for prompt in HOSTILE[:4]} <= set(page.marks)


def test_the_page_needs_nothing_but_itself(difference) -> None:
    text = render_difference(difference, 500)
    policy = next(attributes["content"] for tag, attributes in Page(text).tags if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'")
    assert not [value for _, attributes in Page(text).tags for name, value in attributes.items() if name == "src"]


def test_of_a_long_ranking_the_middle_is_left_out_and_counted(difference) -> None:
    page = Page(render_difference(difference, 3))
    text = " ".join(" ".join(page.texts).split())
    ranks = [attributes["data-sort"] for tag, attributes in page.tags if tag == "td"][::9]
    assert ranks == ["1", "2", "3", "10", "11", "12"] * 2
    assert "The middle of the ranking, 6 atoms, is left out here." in text
    assert "12 of 15 atoms of base were read by other, 6 of them with a source that is an atom of both" in text
    assert "2 have no token of their own there; 1 have no usable activation." in text
    assert text.count("The two models have different widths") == 1


def test_headings_sort_by_their_column_and_back(browser, difference, tmp_path) -> None:
    write_difference_page(difference, tmp_path / "page.html", 500)
    browser.get((tmp_path / "page.html").as_uri())
    section = browser.find_element(By.ID, "direction-1")

    def press(words: str) -> list[str]:
        for button in section.find_elements(By.CSS_SELECTOR, "thead button"):
            if button.text.startswith(words):
                button.click()
        return [
            row.find_elements(By.TAG_NAME, "td")[6].text for row in section.find_elements(By.CSS_SELECTOR, "tbody tr")
        ]

    by_rank = [str(100 - rank) for rank in range(N)]
    assert press("Atom") == by_rank[::-1]
    assert section.find_element(By.CSS_SELECTOR, ".sorted").text == "Sorted by Atom, ascending."
    assert press("Atom") == by_rank
    # Equal values stay in the order of rank.
    assert press("Document") == [by_rank[rank] for rank in sorted(range(N), key=lambda rank: (rank % 3, rank))]
    assert press("Excess") == by_rank[::-1]
    assert not browser.get_log("browser")


def test_the_table_shows_the_top_of_both_rankings(difference) -> None:
    output = io.StringIO()
    print_difference(difference, Console(file=output, width=100))
    printed = output.getvalue()
    first, second = printed.split("Atoms of other, read by base")
    for text in (first, second):
        listed = [line.split()[0] for line in text.splitlines() if line.split()[:1] and line.split()[0].isdigit()]
        assert listed[:RANKED] == [str(100 - rank) for rank in range(RANKED)]
    assert "12 of 15 atoms of base were read by other" in first
    assert "[red]markup[/red]" in printed
    assert "\x1b" not in printed
