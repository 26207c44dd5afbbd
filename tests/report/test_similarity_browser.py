"""The page of a comparison of models in a browser: coloured tables, within the window, without a script."""

import pytest
from selenium.webdriver.common.by import By

from itda_lightning.report.figures.heat_map import SHADES
from itda_lightning.report.pages.model_pages import write_similarity
from tests.browser import fits
from tests.report.similarities import similarity_of


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    path = tmp_path_factory.mktemp("similarity") / "similarity.html"
    write_similarity(similarity_of({"base": 16, "tuned": 12}, ("jaccard", "pwcca")), path)
    browser.get(path.as_uri())
    yield browser
    assert browser.get_log("browser") == [], "the policy allows the page's own style"


def style(page, selector: str, name: str) -> list[str]:
    return page.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((e) => getComputedStyle(e)[arguments[1]])",
        selector,
        name,
    )


def test_cells_have_the_colours_of_the_scale(page):
    scale = style(page, ".scale span", "backgroundColor")[:SHADES]
    assert len(set(scale)) == SHADES
    cells = page.find_elements(By.CSS_SELECTOR, ".heat tbody td")
    colours = style(page, ".heat tbody td", "backgroundColor")
    assert len(cells) == len(colours) == 2 * (16 * 16 + 16 * 12 + 12 * 12) + 12 * 16, (
        "the second measure is not symmetric"
    )
    for cell, colour in list(zip(cells, colours, strict=True))[:40]:
        assert colour == scale[int(cell.get_attribute("class").removeprefix("shade-"))]
        assert ": " in cell.get_attribute("title")


def test_the_largest_value_of_a_row_is_framed(page):
    frames = style(page, ".heat strong", "outlineStyle")
    assert frames
    assert set(frames) == {"solid"}


def test_wide_tables_scroll_inside_the_page(page):
    assert [width for width in (1280, 500) if not fits(page, width)] == []
