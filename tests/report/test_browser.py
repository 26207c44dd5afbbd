"""The page of a dictionary in a browser, from a file: what its script draws, without an error or a request."""

import dataclasses

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
    browser.get("about:blank")
    browser.get(path.as_uri())
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
        "Detected largest cosines, used or not",
        "Coefficients of 13 tokens",
        "Largest coefficients",
        "From 6 to 8 1 token, 7.7%",
        "From 2 to 4 10 tokens, 77%",
        "From \N{MINUS SIGN}2 to 0 2 tokens, 15%",
    ]
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
    write_page(dataclasses.replace(results, usage=usage, decompositions=()), tmp_path / "page.html")
    browser.get((tmp_path / "page.html").as_uri())
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
    assert atoms_listed(page) == list(range(80, 90))
    assert not page.find_element(By.ID, "next").is_enabled()
    Select(page.find_element(By.ID, "order")).select_by_visible_text("most used first")
    assert atoms_listed(page)[:3] == [89, 88, 87]
    Select(page.find_element(By.ID, "order")).select_by_visible_text("least used first")
    assert atoms_listed(page)[:3] == [5, 0, 1]
    page.find_element(By.ID, "find").send_keys("הילד")
    assert atoms_listed(page) == list(range(3, 90, 5))
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
        assert len(browser.find_elements(By.CSS_SELECTOR, "figure svg")) == 4
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert "0.1235" in body
    assert "Decompositions" in body
    assert "allow scripts" in body


def test_nothing_runs_over_the_edge(browser, results, tmp_path):
    write_page(dataclasses.replace(results, facts={"revision": "0" * 200}), tmp_path / "page.html")
    browser.get((tmp_path / "page.html").as_uri())
    assert [width for width in (1280, 500) if not fits(browser, width)] == []


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
