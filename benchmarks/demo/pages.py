"""How large is the page of a large dictionary, and how soon is it drawn?

    python -m benchmarks.demo.pages --dictionary RUN

The page is of as many random training activations as wanted, with the pruned codes of the recommended setting, on the
run's held-out tokens: what a page holds depends on atoms, tokens and texts, not on how atoms were found. It is opened
in headless Chromium from a file, several times; a page notes the milliseconds from the start of the navigation until
the list and the first atom are drawn. Needs chromium and chromedriver (`make browser`).
"""

import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from benchmarks.results import Study, describe, environment, table, write_results
from itda_lightning.evaluation.data_of import load_with_data
from itda_lightning.evaluation.page_results import measure_for_page
from itda_lightning.report.pages.dictionary_page import write_page
from itda_lightning.saelens.controls import random_dictionary

RESULTS = Path(__file__).parent / "results"


def drawn_after(path: Path, times: int) -> list[float]:
    """Open a page in a browser anew each time; return the seconds until it is drawn."""
    options, found = webdriver.ChromeOptions(), []
    options.binary_location = str(next(filter(None, map(shutil.which, ("chromium", "google-chrome")))))
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    for _ in range(times):
        browser = webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
        try:
            browser.get(path.as_uri())
            WebDriverWait(browser, 120).until(lambda open_: open_.find_elements(By.CSS_SELECTOR, "html[data-ready]"))
            ready = browser.find_element(By.TAG_NAME, "html").get_attribute("data-ready")
            found.append(float(str(ready)) / 1000)
        finally:
            browser.quit()
    return found


def run(dictionary: str, n_atoms: int = 16_384, times: int = 5, results: str = str(RESULTS)) -> None:
    """Make the page, open it and write the figures.

    Args:
        dictionary: a run or saved dictionary with cached activations, whose data and bias are used.
        n_atoms: number of atoms of the page.
        times: how often it is opened.
        results: directory for pages.json and pages.md.
    """
    own, hook, data = load_with_data(dictionary, None, None, "cpu")
    atoms = random_dictionary(data, hook, n_atoms, 48, "gomp", own.bias, nonnegative=True, l0=32)
    with tempfile.TemporaryDirectory() as place:
        page = Path(place) / "page.html"
        measured = measure_for_page(atoms, data, hook, {})
        write_page(measured, page)
        row: dict[str, Any] = {
            "name": "page of a dictionary",
            "atoms": n_atoms,
            "heldout tokens": measured.usage.n_tokens,
            "bytes": page.stat().st_size,
            "megabytes": page.stat().st_size / 1e6,
            "seconds": (seconds := drawn_after(page, times)),
            "median seconds": statistics.median(seconds),
        }
    name = data.model_name
    study = Study("demo/pages", name.name, name.fingerprint(), hook, data.hparams["dataset"], None, 0)
    result = {**describe(study), "rows": [row]}
    write_results(Path(results), "pages", result, as_markdown(result))


def as_markdown(result: dict[str, Any]) -> str:
    """Return the table."""
    cells = [
        [
            row["name"],
            f"{row['atoms']:,}",
            f"{row['heldout tokens']:,}",
            f"{row['megabytes']:.1f}",
            f"{row['median seconds']:.2f} ({min(row['seconds']):.2f} to {max(row['seconds']):.2f})",
        ]
        for row in result["rows"]
    ]
    head = ["page", "atoms", "held-out tokens", "MB", "seconds until drawn"]
    return "\n".join(["# Pages", "", environment(result), "", *table(head, cells)]) + "\n"


if __name__ == "__main__":
    auto_cli(run, as_positional=False)
