"""How large is the page of a large dictionary, and how soon is it drawn?

    python -m benchmarks.demo.pages

The page has as many atoms as wanted, each with the examples, ranges, detections and neighbours that pages show, drawn
at random from tokens (words, here) of the bundled text, a list of texts to read and codes of 32 atoms: all that a
page's size and drawing depend on, without hours of encoding. It is opened in headless Chromium from a file, several
times; a page notes the milliseconds from the start of the navigation until the list and the first atom are drawn. Needs
chromium and chromedriver (`make browser`).
"""

import json
import os
import random
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

from benchmarks.bundled import DATASET
from benchmarks.results import Study, describe, environment, table, write_results
from itda_lightning.activations.bundled import resolve
from itda_lightning.dictionary.sources import Prompt, Source
from itda_lightning.report.pages.dictionary_page import write_page
from itda_lightning.results.run_results import (
    AtomMeaning,
    AtomUsage,
    CoefficientRange,
    Detection,
    Example,
    ReadRow,
    RunResults,
    TokenCode,
    Usage,
)

RESULTS = Path(__file__).parent / "results"
ROWS, CONTEXT, READ, CODE, BINS = 64, 127, 24, 32, 64  # as of `make demo`


def drawn_after(path: Path, times: int) -> tuple[list[float], list[float]]:
    """Open a page in a browser anew each time; return the seconds until it is drawn, and those of the page's thread."""
    options, found, busy = webdriver.ChromeOptions(), [], []
    options.binary_location = str(next(filter(None, map(shutil.which, ("chromium", "google-chrome")))))
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    for _ in range(times):
        browser = webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
        try:
            # Time of the processor, which does not depend on what else the machine does.
            browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
            browser.get(path.as_uri())
            WebDriverWait(browser, 120).until(lambda open_: open_.find_elements(By.CSS_SELECTOR, "html[data-ready]"))
            ready = browser.find_element(By.TAG_NAME, "html").get_attribute("data-ready")
            found.append(float(str(ready)) / 1000)
            metrics = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
            busy += [metric["value"] for metric in metrics if metric["name"] == "TaskDuration"]
        finally:
            browser.quit()
    return found, busy


def results_of(n_atoms: int, seed: int = 0) -> RunResults:
    """Return the contents of a page: numbers are random, texts are prose."""
    pick = random.Random(seed)
    lines = Path(resolve(DATASET)).read_text(encoding="utf-8").splitlines()
    words = " ".join(json.loads(line)["text"] for line in lines[:40]).split()[: ROWS * CONTEXT]
    rows = [words[start : start + CONTEXT] for start in range(0, len(words), CONTEXT)]
    prompts = [
        Prompt(" ".join(row[:place]), f" {row[place]}", f" {' '.join(row[place + 1 :])}")
        for row in rows
        for place in range(len(row))
    ]

    def examples(count: int) -> tuple[Example, ...]:
        return tuple(Example(60 * pick.random(), pick.choice(prompts)) for _ in range(count))

    def atom(number: int) -> AtomUsage:
        ranges = tuple(
            CoefficientRange(16.0 * low, 16.0 * low + 16, pick.randrange(1, 9), examples(3)) for low in range(4)
        )
        detected = tuple(Detection(pick.random(), pick.choice(prompts)) for _ in range(5))
        histogram = tuple(pick.randrange(9) if place >= BINS // 2 else 0 for place in range(BINS))
        source, prompt = Source(number, number, 7, number, 100, 104), pick.choice(prompts)
        uses = pick.randrange(1, 99)
        return AtomUsage(
            number, source, prompt, uses, uses / len(prompts), 64.0, histogram, examples(5), ranges, detected
        )

    def code() -> TokenCode:
        atoms = tuple(pick.sample(range(n_atoms), CODE))
        return TokenCode(pick.random(), 90.0, atoms, tuple(60 * pick.random() for _ in range(CODE)))

    def meaning() -> AtomMeaning:
        nearest = tuple((pick.randrange(n_atoms), pick.random()) for _ in range(6))
        promoted, suppressed = (tuple(f" {pick.choice(words)}" for _ in range(10)) for _ in range(2))
        return AtomMeaning(nearest, promoted, suppressed)

    usage = Usage(len(prompts), 10.0, 100.0, (0, len(prompts)), tuple(map(atom, range(n_atoms))))
    reading = tuple(ReadRow(tuple(f" {word}" for word in row), tuple(code() for _ in row)) for row in rows[:READ])
    meanings = tuple(meaning() for _ in range(n_atoms))
    metrics = {"n_atoms": n_atoms, "fvu": 0.1, "l0": float(CODE)}
    return RunResults(
        "A large page", {"dataset": DATASET}, metrics, usage, reading=reading, meanings=meanings, signed=False
    )


def run(n_atoms: int = 16_384, times: int = 5, results: str = str(RESULTS)) -> None:
    """Make the page, open it and write the figures.

    Args:
        n_atoms: number of atoms of the page.
        times: how often it is opened.
        results: directory for pages.json and pages.md.
    """
    measured = results_of(n_atoms)
    with tempfile.TemporaryDirectory() as place:
        page = Path(place) / "page.html"
        write_page(measured, page)
        seconds, busy = drawn_after(page, times)
        size = page.stat().st_size
    row: dict[str, Any] = {
        "name": "page of a dictionary",
        "atoms": n_atoms,
        "heldout tokens": measured.usage.n_tokens,
        "bytes": size,
        "megabytes": size / 1e6,
        "seconds": seconds,
        "median seconds": statistics.median(seconds),
        "processor seconds": busy,
        "median processor seconds": statistics.median(busy),
        "load of the machine": os.getloadavg()[0],
    }
    result = {**describe(Study("demo/pages", dataset=DATASET, seed=0)), "rows": [row]}
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
            f"{row['median processor seconds']:.2f}",
            f"{row['load of the machine']:.1f}",
        ]
        for row in result["rows"]
    ]
    head = ["page", "atoms", "held-out tokens", "MB", "seconds until drawn", "of the processor", "load of the machine"]
    return "\n".join(["# Pages", "", environment(result), "", *table(head, cells)]) + "\n"


if __name__ == "__main__":
    auto_cli(run, as_positional=False)
