"""The page of a dictionary in a browser, from a file: what its script draws, without an error or a request."""

import csv
import dataclasses
from urllib.parse import unquote

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from itda_lightning.dictionary.sources import Prompt
from itda_lightning.report.pages.dictionary_page import write_page
from tests.browser import fits
from tests.report.conftest import HOSTILE


@pytest.fixture(scope="module")
def path(results, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_page(results, path)
    return path


@pytest.fixture
def page(browser, path):
    return opened(browser, path)


def opened(browser, path):
    """The browser with the page open, once the script has unpacked its data."""
    browser.get("about:blank")
    browser.get(path.as_uri())
    WebDriverWait(browser, 10).until(lambda _: browser.find_elements(By.CSS_SELECTOR, "html[data-ready]"))
    return browser


def text(page, selector: str) -> str:
    return page.find_element(By.CSS_SELECTOR, selector).text


def wait_for_atom(page, atom: int) -> WebElement:
    """The part of an atom, once the script has answered the new address."""
    return WebDriverWait(page, 10).until(lambda _: page.find_element(By.CSS_SELECTOR, f"article#atom-{atom}"))


def go_to_atom(page, atom: int) -> WebElement:
    page.execute_script("location.hash = arguments[0]", f"atom-{atom}")
    return wait_for_atom(page, atom)


def atoms_listed(page) -> list[int]:
    return [int(row.get_attribute("data-atom")) for row in page.find_elements(By.CSS_SELECTOR, "#rows tr")]


def test_an_atom_linked_from_a_decomposition_is_drawn_with_the_runs_numbers(page, results):
    page.find_element(By.CSS_SELECTOR, '.terms a[href="#atom-3"]').click()
    usage = results.usage.atoms[3]
    article = wait_for_atom(page, 3)
    assert text(page, "article.atom h3") == "Atom 3"
    assert page.switch_to.active_element.text == "Atom 3"
    assert text(page, "article.atom > .prompt mark") == usage.prompt.token
    shown = [data.get_attribute("value") for data in article.find_elements(By.TAG_NAME, "data")]
    examples = [*usage.top, *(example for part in usage.ranges for example in part.examples)]
    cosines = [found.cosine for found in usage.detected]
    assert [float(value) for value in shown] == [usage.count, *cosines, *(example.coefficient for example in examples)]
    headings = [heading.text for heading in article.find_elements(By.TAG_NAME, "h4")]
    assert headings == [
        "Detected tokens most like the atom (cosine), used or not",
        "Promotes as the next token",
        "Suppresses",
        "Nearest atoms cosine",
        "Coefficients of 13 tokens",
        "Largest coefficients",
        "From 6 to 8 1 token, 7.7%",
        "From 2 to 4 10 tokens, 77%",
        "From \N{MINUS SIGN}2 to 0 2 tokens, 15%",
    ]
    assert [sign.text for sign in article.find_elements(By.CLASS_NAME, "sign")] == [
        "Positive coefficients",
        "Negative coefficients",
    ]
    tokens = [token.get_attribute("textContent") for token in article.find_elements(By.CSS_SELECTOR, ".tokens li")]
    assert tokens == [HOSTILE[3].token, " on", "<b>off</b>"]
    assert article.find_element(By.CSS_SELECTOR, ".nearest a").get_attribute("hash") == "#atom-86"
    bars = article.find_elements(By.CSS_SELECTOR, "svg rect")
    assert [bar.get_attribute("class") for bar in bars] == ["negative", "positive", "positive"]
    assert page.get_log("browser") == []


def test_prompts_are_text_to_the_script_too(page):
    for atom, prompt in enumerate(HOSTILE[:4]):
        shown = go_to_atom(page, atom).find_element(By.CLASS_NAME, "prompt").get_attribute("textContent")
        assert shown == "".join(prompt)
        assert page.find_elements(By.CSS_SELECTOR, "article.atom img, article.atom script") == []
    assert page.title == "A <b>run</b> & more"
    assert page.get_log("browser") == []


def test_special_tokens_are_quiet_to_the_script_too(browser, results, tmp_path):
    prompt = Prompt("<|im_start|>one</s>" + 23 * "b", " token", "<|im_end|>")
    atom = dataclasses.replace(results.usage.atoms[0], prompt=prompt)
    usage = dataclasses.replace(results.usage, atoms=(atom,))
    few = dataclasses.replace(results, usage=usage, decompositions=(), meanings=(), reading=())
    write_page(few, tmp_path / "page.html")
    opened(browser, tmp_path / "page.html")
    article = wait_for_atom(browser, 0)
    special = [span.text for span in article.find_elements(By.CSS_SELECTOR, ".prompt .special")][:3]
    assert special == ["<|im_start|>", "</s>", "<|im_end|>"]
    assert article.find_element(By.CLASS_NAME, "prompt").get_attribute("textContent") == "".join(prompt)
    # The list has room for 24 characters: no half of a special token stands there.
    assert browser.find_element(By.CSS_SELECTOR, "#rows .prompt").text.startswith(23 * "b" + " token")
    assert browser.get_log("browser") == []


def test_a_dead_atom_without_a_prompt_says_so(page):
    article = go_to_atom(page, 5)
    assert "prompt unknown" in article.text
    assert "none of 400 tokens" in article.text


def test_the_list_is_found_ordered_and_paged(page):
    assert text(page, "#found") == "1\N{EN DASH}40 of 90 atoms"
    page.find_element(By.ID, "next").send_keys(Keys.ENTER)
    page.find_element(By.ID, "next").send_keys(Keys.ENTER)
    assert atoms_listed(page) == [*range(9, 5, -1), *range(4, -1, -1), 5]  # most used first
    assert not page.find_element(By.ID, "next").is_enabled()
    Select(page.find_element(By.ID, "order")).select_by_visible_text("by number")
    assert atoms_listed(page)[:3] == [0, 1, 2]
    Select(page.find_element(By.ID, "order")).select_by_visible_text("least used first")
    assert atoms_listed(page)[:3] == [5, 0, 1]
    page.find_element(By.ID, "find").send_keys("הילד")
    assert atoms_listed(page) == [*range(3, 90, 5)]
    page.find_element(By.ID, "find").clear()
    page.find_element(By.ID, "find").send_keys("17")
    assert atoms_listed(page) == [17]
    page.find_element(By.ID, "find").send_keys("nowhere")
    assert text(page, "#found") == "No prompt contains this text"
    assert page.get_log("browser") == []


def test_the_main_parts_are_read_without_scripts(browser, path):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(path.as_uri())
        body = text(browser, "body")
        assert len(browser.find_elements(By.CSS_SELECTOR, "figure svg")) == 5
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert "0.1235" in body
    assert "Decompositions" in body
    assert "allow scripts" in body


def test_nothing_runs_over_the_edge(browser, results, tmp_path):
    write_page(dataclasses.replace(results, facts={"revision": "0" * 200}), tmp_path / "page.html")
    opened(browser, tmp_path / "page.html")
    text(browser, "#text")
    browser.find_elements(By.CSS_SELECTOR, "#text [data-place]")[1].click()
    assert [width for width in (1400, 1280, 500, 390) if not fits(browser, width)] == []


def test_the_policy_forbids_requests(page):
    blocked = page.execute_async_script(
        """const done = arguments[0];
        addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective));
        setTimeout(() => done("nothing was blocked"), 2000);
        const image = new Image();
        image.src = "https://example.invalid/a.png";"""
    )
    assert blocked == "img-src"
    # What the attempt above wrote to the console is not the page's.
    page.get_log("browser")


def tokens_of(page) -> list[WebElement]:
    return page.find_elements(By.CSS_SELECTOR, "#text .token")


def test_a_token_that_is_clicked_shows_its_atoms(page):
    tokens = tokens_of(page)
    assert [token.get_attribute("textContent") for token in tokens] == list(HOSTILE[0])
    assert [token.get_attribute("title") for token in tokens] == ["", "50% unexplained", "13% unexplained"]
    tokens[2].click()
    assert page.find_element(By.CSS_SELECTOR, "#token h3").text.endswith("is a sum of 2 atoms")
    rows = page.find_elements(By.CSS_SELECTOR, "#token tbody tr")
    shown = [[row.find_element(By.TAG_NAME, "a").text, row.find_element(By.TAG_NAME, "data").text] for row in rows]
    assert shown == [["40", "8.00"], ["41", "\N{MINUS SIGN}2.00"]]
    assert text(page, "#token .note") == "13% unexplained; norm 20"
    rows[1].find_element(By.TAG_NAME, "button").click()
    assert "atom 41" in text(page, "#shade")
    assert [token.get_attribute("class") for token in tokens_of(page)] == ["token left-out", "token", "token less"]
    assert tokens_of(page)[2].get_attribute("title") == "coefficient \N{MINUS SIGN}2"
    tokens_of(page)[1].send_keys(Keys.ENTER)
    assert page.find_element(By.CSS_SELECTOR, "#token h3").text.endswith("is a sum of 1 atoms")
    assert page.get_log("browser") == []


def test_texts_are_searched_and_turned(page):
    assert text(page, "#texts-found") == "Text 1 of 5"
    assert not page.find_element(By.ID, "text-before").is_enabled()
    page.find_element(By.ID, "text-after").click()
    assert tokens_of(page)[1].get_attribute("textContent") == HOSTILE[1].token
    page.find_element(By.ID, "find-text").send_keys("family")
    assert text(page, "#texts-found") == "Text 1 of 1"
    assert tokens_of(page)[1].get_attribute("textContent") == HOSTILE[2].token
    page.find_element(By.ID, "find-text").send_keys(" of nobody")
    assert text(page, "#texts-found").startswith("None of these texts holds that. itda decompose")
    assert page.get_log("browser") == []


def test_an_atom_is_shown_in_the_text_that_uses_it_most(page):
    go_to_atom(page, 43).find_element(By.CLASS_NAME, "in-texts").click()
    assert text(page, "#texts-found") == "Text 3 of 5"
    assert "atom 43" in text(page, "#shade")
    go_to_atom(page, 80).find_element(By.CLASS_NAME, "in-texts").click()
    assert text(page, ".in-texts") == "In none of the texts"


def test_marked_atoms_are_offered_as_a_list_and_remembered(page, path):
    for atom in (7, 3):
        go_to_atom(page, atom).find_element(By.CLASS_NAME, "mark-atom").click()
    link = page.find_element(By.ID, "export")
    assert link.text == "Save the 2 marked atoms (CSV)"
    lines = unquote(link.get_attribute("href")).removeprefix("data:text/csv;charset=utf-8,")
    heads, *rows = csv.reader(lines.splitlines())
    assert heads == ["atom", "before", "token", "after", "share of tokens"]
    assert [row[0] for row in rows] == ["3", "7"]
    assert rows[0][1:4] == list(HOSTILE[3])
    opened(page, path)
    assert page.find_element(By.ID, "export").text == "Save the 2 marked atoms (CSV)"
    for atom in (7, 3):
        go_to_atom(page, atom).find_element(By.CLASS_NAME, "mark-atom").click()
    assert not page.find_element(By.ID, "export").is_displayed()
    assert page.get_log("browser") == []


def test_a_browser_that_cannot_open_the_data_says_so(browser, path, tmp_path):
    broken = path.read_text(encoding="utf-8").replace('id="data">H4sI', 'id="data">AAAA')
    (tmp_path / "page.html").write_text(broken, encoding="utf-8")
    browser.get((tmp_path / "page.html").as_uri())
    WebDriverWait(browser, 10).until(lambda _: "cannot be drawn" in text(browser, "#failed"))
    browser.get_log("browser")
