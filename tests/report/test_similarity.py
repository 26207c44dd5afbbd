"""The page and the tables of a comparison of models: every value is there, in words, in numbers and in colour."""

import io
import json
import math
import re
from dataclasses import replace
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from itda_lightning.across_models.similarity_settings import MEASURES as ALL_MEASURES
from itda_lightning.report.figures.heat_map import SHADES, Shades, heat_map, sites_of_models
from itda_lightning.report.pages.model_pages import render_similarity, write_similarity
from itda_lightning.report.terminal import print_similarity
from itda_lightning.report.wandb_log import log_similarity
from itda_lightning.report.words.model_words import SIMILARITIES, means_of, noise_floor
from itda_lightning.report.words.wording import show_number
from itda_lightning.results.as_json import from_json, to_json
from itda_lightning.results.model_similarity import ModelSimilarity
from tests.report.similarities import similarity_of


def test_every_measure_has_words() -> None:
    assert set(SIMILARITIES) == set(ALL_MEASURES)


def test_a_page_shows_all_pairs_of_models_and_needs_nothing_else(tmp_path) -> None:
    results = similarity_of({"base": 4, "tuned": 4, "small": 2})
    write_similarity(results, tmp_path / "similarity.html")
    page = (tmp_path / "similarity.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert not re.search(r"(src|href)=\"(?!#)", page)
    assert "Content-Security-Policy" in page
    # Each with each and itself; both ways round where a measure is not symmetric.
    assert page.count('<table class="heat"') == (len(ALL_MEASURES) - 2) * 6 + 2 * 9
    titles = re.findall(r'title="base blocks.1.hook_resid_post and tuned blocks.2.hook_resid_post: ([^"]*)"', page)
    assert len(titles) == len(results.measured)
    value, excess = results.measured[0].values[1][6], results.measured[0].excesses[1][6]
    assert titles[0] == f"{value:.3f} ± 0.012; tokens permuted 0.05, excess {show_number(excess)}"
    mean = means_of(results.measured[2], results.sites)
    said = "permuted against the other&#39;s give 0.05 on average where the pairs themselves give "
    assert page.count(said) == len(ALL_MEASURES) - 1, "all but the Jaccard index, which is over chance itself"
    assert f"give {show_number(mean.value)}: an excess of {show_number(mean.excess)}, of 1 for identity" in page
    assert page.count("Noise floor: two fits of the same layer") == 2
    assert "first 1,000 atoms, the size of the smallest, out of 16,000 tokens" in page
    assert "0.750 ± 0.050" in page
    assert "base, tuned</th>" in page


def test_the_layer_that_a_row_is_matched_with_is_framed() -> None:
    results = similarity_of({"a": 4, "b": 4}, ("cka",))
    rows, columns = sites_of_models(results.sites)
    assert (rows, columns) == (range(4), range(4, 8))
    shades = Shades.of(results.measured[0].values)
    other = heat_map(results.measured[0], results.sites, rows, columns, shades)
    assert [[cell.best for cell in row] for row in other.cells] == [[i == j for j in range(4)] for i in range(4)]
    own = heat_map(results.measured[0], results.sites, rows, rows, shades)
    assert not any(own.cells[i][i].best for i in range(4)), "a layer is not matched with itself"
    assert [sum(cell.best for cell in row) for row in own.cells] == [1] * 4
    assert own.cells[0][0].text == "1.0"
    assert own.cells[0][1].text == f"{results.measured[0].values[0][1]:.2f}"[1:]
    page = render_similarity(results)
    assert page.count("<strong>") == 12


def test_heat_maps_are_tables_with_a_heading_for_every_row_and_column() -> None:
    results = similarity_of({"a": 3, "b": 2}, ("cka",))
    maps = re.findall(r'<table class="heat">(.*?)</table>', render_similarity(results), re.DOTALL)
    assert [re.search("<caption>(.*?)</caption>", table)[1] for table in maps] == [
        "a (rows) and a (columns)",
        "a (rows) and b (columns)",
        "b (rows) and b (columns)",
    ]
    table = maps[1]
    assert re.findall(r'<th scope="col"><span>(.*?)</span>', table) == ["0", "1"]
    assert re.findall(r'<th scope="row">(.*?)</th>', table) == ["0", "1", "2"]
    numbers = re.findall(r'<td class="shade-\d" title="[^"]*">(?:<strong>)?([\d.]+)', table)
    values = [results.measured[0].values[row][3 + column] for row in range(3) for column in range(2)]
    assert numbers == [f"{value:.2f}"[1:] for value in values]


@given(st.floats(0, 1), st.floats(0, 1))
def test_shades_are_lighter_the_larger_the_value(a: float, b: float) -> None:
    shades = Shades(0.25, 0.75)
    low, high = sorted((a, b))
    assert 0 <= shades.shade(low) <= shades.shade(high) < SHADES


def test_every_shade_has_a_colour_lighter_than_the_last_and_readable_text() -> None:
    style = files("itda_lightning.report.pages").joinpath("similarity.css").read_text(encoding="utf-8")
    colours = re.findall(r"\.shade-(\d) { background: (#\w{6}); }", style)
    assert [int(shade) for shade, _ in colours] == list(range(SHADES))
    luminances = [luminance(colour) for _, colour in colours]
    assert luminances == sorted(luminances)
    for shade, background in enumerate(luminances):
        (text,) = re.findall(rf"\.shade-{shade}\b[^{{}}]* {{ color: (#\w+); }}", style)
        ink = luminance(text if len(text) == 7 else "#" + "".join(2 * digit for digit in text[1:]))
        assert (max(ink, background) + 0.05) / (min(ink, background) + 0.05) >= 4.5, "WCAG AA"


def luminance(colour: str) -> float:
    """The relative luminance of WCAG 2."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * channel for weight, channel in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_the_scale_covers_what_is_not_a_site_with_itself() -> None:
    shades = Shades.of(((1.0, 0.2, math.nan), (0.3, 1.0, 0.25), (0.2, 0.21, 1.0)))
    assert (shades.low, shades.high) == (0.2, 0.3)
    assert [shades.shade(value) for value in (0.1, 0.2, 0.3, 1.0, math.nan)] == [0, 0, 9, 9, 0]
    assert Shades.of(((1.0,),)).shade(1.0) == SHADES - 1
    assert shades.steps()[:2] == ["0.2", "0.21"]
    assert len(shades.steps()) == SHADES


def test_one_model_without_dictionaries_has_no_matching_and_no_floor() -> None:
    results = similarity_of({"only": 3}, with_sources=False)
    page = render_similarity(results)
    assert noise_floor(results) == ""
    assert "Noise floor" not in page
    assert "so nothing is matched" in page
    assert "Whole models" not in page
    assert page.count('<table class="heat"') == len(ALL_MEASURES) - 2


def test_what_is_from_data_is_escaped() -> None:
    results = similarity_of({"<b>a</b>": 2, "b": 2}, ("cka",))
    page = render_similarity(replace(results, facts={"<i>": "<script>alert(1)</script>"}))
    assert "<b>a" not in page
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_the_terminal_says_how_layers_match_and_what_order_changes() -> None:
    output = io.StringIO()
    print_similarity(similarity_of({"base": 3, "[red]": 3}), Console(file=output, width=160))
    text = output.getvalue()
    assert "Linear CKA" in text
    mean = means_of(similarity_of({"base": 3, "[red]": 3}).measured[2], similarity_of({"base": 3, "[red]": 3}).sites)
    (row,) = re.findall(r"^ *Linear CKA +([\d.]+) +([\d.]+) +([\d.]+) *$", text, re.MULTILINE)
    assert row == tuple(map(show_number, mean))
    assert "0.750 ± 0.050" in text
    assert "base and [red], all layers together: Jaccard index 0.410 ± 0.020, by chance 0.09, over chance 0.320" in text
    assert "in different orders have an excess over chance of 0.0947 to 0.0947" in " ".join(text.split())


@pytest.mark.parametrize("with_sources", [True, False])
def test_results_survive_json(with_sources: bool) -> None:
    results = similarity_of({"base": 2, "small": 1}, with_sources=with_sources)
    text = to_json(results)
    assert to_json(from_json(text, ModelSimilarity)) == text
    assert "NaN" not in text


def test_weights_and_biases_gets_the_values_and_the_page(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    results = similarity_of({"base": 2, "tuned": 2}, ("jaccard", "cka"))
    log_similarity(results, "project-of-the-test", tmp_path / "similarity")
    files = tmp_path.glob("similarity/wandb/offline-run-*/files/media/table/similarity/*.table.json")
    tables = {file.name.partition("_table_")[0].partition("_0_")[0]: json.loads(file.read_text()) for file in files}
    assert set(tables) == {"jaccard", "cka", "layer_matching", "sources"}
    assert len(tables["cka"]["data"]) == 16
    row = dict(zip(tables["layer_matching"]["columns"], tables["layer_matching"]["data"][0], strict=True))
    assert (row["measure"], row["accuracy"], row["standard error"]) == ("jaccard", 0.75, 0.05)
    assert len(tables["sources"]["data"]) == 1 + 2 * 3
    assert list(tmp_path.glob("similarity/wandb/offline-run-*/files/media/html/similarity/page*.html"))
