"""The dashboard as text: complete, self-contained, and safe whatever names and prompts hold."""

import dataclasses
import json
import math
import re

import pytest

from itda_lightning.dictionary.sources import Prompt
from itda_lightning.errors import InputError
from itda_lightning.report.pages.comparison_page import render_dashboard, write_dashboard
from itda_lightning.report.pages.latent_data import latent_lines, overview
from itda_lightning.report.words.wording import MINUS
from itda_lightning.results.comparison import Comparison, Estimate, LatentSummary, LatentView, Row
from tests.pages import packed_in
from tests.report.comparisons import latent_view, realistic, row
from tests.report.conftest import HOSTILE
from tests.report.test_page import Page

BREAKING = "</script><script>document.title='broken'</script><img src=x onerror=alert(1)>"
SECTIONS = ("words", "pareto", "costs", "densities", "probing", "table", "latents")


def hostile() -> Comparison:
    """Every text of a comparison tries to break out of wherever it is put."""
    sae = row(BREAKING, "sae", BREAKING, 64, 8.5, 0.2, settings={BREAKING: BREAKING, "pursuit": "<u>"}, reused=True)
    measures = {**sae.measures, BREAKING: Estimate(0.5, 0.01), "probing/<i>": Estimate(0.5)}
    itda = row('it\'s "quoted" & {{ 7 * 7 }}', "itda", "itda", 64, 8.0, 0.3, settings={"pursuit": "<u>x</u>"})
    failed = Row("<b>failed</b>", "random", failure=f"{BREAKING} \x1b[31m \u202e")
    view = latent_view(9, (sae.name,), 512, HOSTILE)
    return Comparison(BREAKING, {BREAKING: BREAKING}, (dataclasses.replace(sae, measures=measures), itda, failed), view)


@pytest.fixture(scope="module")
def text() -> str:
    return render_dashboard(realistic(5))


def sections(text: str) -> list[str]:
    return re.findall(r'<section id="(\w+)"', text)


def test_text_from_data_never_becomes_markup():
    text = render_dashboard(hostile())
    page = Page(text)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == 3
    assert not {"img", "b", "i", "u", "iframe", "object", "link"} & set(tags)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert any("{{ 7 * 7 }}" in shown for shown in page.texts)


def test_the_dashboard_refers_to_nothing_outside_itself(text):
    page = Page(text)
    references = [v for _, attributes in page.tags for k, v in attributes.items() if k in ("src", "href", "action")]
    assert all(reference.startswith("#") for reference in references)
    assert "://" not in text
    assert "url(" not in text
    assert "@import" not in text
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert policy.count("sha256-") == 2


def test_every_part_is_there_and_named_for_readers_who_do_not_see_it(text):
    assert sections(text) == list(SECTIONS)
    plots = re.findall(r'<figure[^>]*data-plot="([^"]+)"', text)
    assert plots == [
        *("pareto-ce_loss_increase", "pareto-fvu", "pareto-kl_div_with_sae"),
        *("seen-fvu", "seen-ce_loss_increase", "seconds-fvu", "seconds-ce_loss_increase"),
        *("densities", "probing"),
    ]
    for name in plots:
        assert f'role="img" aria-labelledby="{name}-summary"' in text
        assert re.search(rf'<title id="{name}-summary">[^<]+</title>', text)
    page = Page(text)
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))


def test_the_table_has_every_figure_and_every_cost(text):
    comparison = realistic(5)
    table = text[text.index('id="all"') :]
    for entry in comparison.rows[:15]:
        for key, estimate in entry.measures.items():
            if not key.endswith(("without_sae", "ablation", "dense")):
                assert f'data-sort="{estimate.value}"' in table
    # What is of the model and not of an entry is told once.
    assert "CE loss, model alone 3.624 ± 0.021" in text
    assert 'data-key="ce_loss_without_sae"' not in table
    assert ">0.1720<small>± 0.0021</small><" in table
    for words in ("7.41 min", "2.1 GiB", "198,354", "9 MiB", "4.72M"):
        assert f">{words}<" in table
    assert len(re.findall(r'<th scope="col" data-key="[^"]+" data-type="\w+"[^>]*><button type="button"', table)) >= 24


def test_differences_are_there_with_what_their_errors_are(text):
    tables = re.findall(r'<details class="differences">.*?</details>', text, re.DOTALL)
    assert [re.search("<summary>(.*)</summary>", table)[1] for table in tables] == [
        "Differences to the best entry",
        "Differences to itda-mp-1k",
    ]
    assert all(table.count('<th scope="row">') == 15 for table in tables)
    assert '<th scope="col">FVU</th>' in tables[0]
    assert f'itda-mp-4k</th><td class="number">{MINUS}0.0900 ± 0.0039 *</td>' in tables[1]
    assert "(itda-mp-1k, itda-omp-1k, itda-mp-4k and 12 more): there errors are taken as independent" in text


def test_failed_rows_say_why_and_reused_ones_that_they_are(text):
    failed = re.search(r'<tr data-row="16" class="failed">.*?</tr>', text, re.DOTALL)[0]
    assert "the release &#39;gemma-scope&#39; is of another model" in failed
    assert text.count(">reused</small>") == 2
    assert "15 of 16 entries have results, 2 of them reused from an earlier run. Failed: gemma-scope." in text


def test_marks_tell_their_entry_on_hover(text):
    assert "<title>1 itda-mp-1k: FVU 0.2620 ± 0.0032, L0 30.700 ± 0.070, 1,024 latents</title>" in text
    assert "<title>7 topk-4000k: FVU 0.1480 ± 0.0018, 4M activations seen, 4,096 latents</title>" in text
    assert "<title>itda-mp-1k: Probe, 1 latent 0.670 ± 0.011</title>" in text


def test_parts_without_data_are_left_out():
    comparison = realistic(5, probing=False)
    bare = [
        dataclasses.replace(
            entry, densities=(), cost=dataclasses.replace(entry.cost, seconds=None, activations_seen=None)
        )
        for entry in comparison.rows
    ]
    text = render_dashboard(dataclasses.replace(comparison, rows=tuple(bare), latents=None))
    assert sections(text) == ["words", "pareto", "table"]
    assert Page(text).scripts[0].startswith("// Elements, numbers")


@pytest.mark.parametrize("measures", [{}, {"l0": Estimate(math.nan), "fvu": Estimate(math.nan, math.nan)}])
def test_measures_that_are_missing_or_nan_are_dashes(measures):
    comparison = realistic(5)
    rows = (comparison.rows[0], dataclasses.replace(comparison.rows[7], measures=measures))
    text = render_dashboard(dataclasses.replace(comparison, rows=rows))
    assert "nan" not in re.sub(r"<script.*", "", text, flags=re.DOTALL)
    assert text.count('data-sort="">\N{EN DASH}<') >= 10


def test_one_row_none_and_only_failures_still_make_a_dashboard():
    comparison = realistic(5)
    assert "pareto" in sections(render_dashboard(dataclasses.replace(comparison, rows=comparison.rows[:1])))
    failures = (Row("a", "sae", failure="gone"), Row("b", "itda", failure="no space"))
    text = render_dashboard(Comparison("Nothing", {}, failures))
    assert sections(text) == ["words", "table"]
    assert "0 of 2 entries have results. Failed: a and b." in text
    assert "no space" in text
    assert "0 of 0 entries" in render_dashboard(Comparison("Nothing", {}, ()))


def test_latents_are_embedded_as_they_are():
    summary = LatentSummary(7, 0.012345, 8.0, (0, 0, 5, 1, 0, 0, 0, 0), ((3, -7.6543), (0, 2.0)), (1, 0), (0,))
    dead = LatentSummary(9, 0.0, 0.0, (0, 0), (), (), ())
    other = dataclasses.replace(summary, latent=40)
    prompt = Prompt("a", "b", "c")
    view = LatentView("r", (("x", "\n"), ("y", "z")), (" t", "u"), (summary, dead), (prompt, None), ())
    nearest = dataclasses.replace(
        realistic(5).latents.others[0], nearest=((40, -0.51234), (40, 0.25)), latents=(other,)
    )
    view = dataclasses.replace(view, others=(nearest,))
    assert latent_lines(view) == [
        [7, 0.0123, -4, 2, (5, 1), [3, -7.65, 0, 2], (1, 0), (0,)],
        [9, 0, 0, 0, (), [], (), ()],
        [40, 0.0123, -4, 2, (5, 1), [3, -7.65, 0, 2], (1, 0), (0,)],
    ]
    shown = overview(view)
    assert shown["others"] == [{"name": "topk-4000k", "nearest": [2, 2], "cosines": [-0.512, 0.25]}]
    assert shown["tokens"] == [["x", "⏎"], ["y", "z"]]
    assert (shown["atoms"], shown["prompts"]) == ([7, 9], [prompt, None])
    assert shown["refined"] is None
    assert shown["nearest"] == [0.512, 0.25]
    twin = dataclasses.replace(nearest, nearest=((40, -0.9999), (40, 1.0)))
    shown = overview(dataclasses.replace(view, others=(nearest, twin)))
    assert shown["nearest"] == [0.512, 0.25], "an atom is not its own nearest"
    assert overview(dataclasses.replace(view, others=(twin,)))["nearest"] == [None, None]
    refined = dataclasses.replace(view, source_cosines=(0.9236, 1.0))
    assert overview(refined)["refined"] == ["0.923", "1.000"], "cut off, not rounded"
    words = "cosine with the\n    activation of its marked token"
    assert words in render_dashboard(Comparison("t", {}, (), refined))
    assert words not in render_dashboard(Comparison("t", {}, (), view))
    page = render_dashboard(Comparison("t", {}, (), view))
    assert json.loads(packed_in(page, "data"))["atoms"] == [7, 9]
    assert [json.loads(line)[0] for line in packed_in(page, "lines").split("\n")] == [7, 9, 40]


def test_latents_are_embedded_in_less_than_half_their_size():
    view = latent_view(512, ("a", "b"))
    text, bare = (render_dashboard(Comparison("t", {}, (), shown)) for shown in (view, None))
    data = len(packed_in(text, "data")) + len(packed_in(text, "lines"))
    assert data > 400_000
    assert len(text) - len(bare) < data / 2


def test_write_dashboard_writes_what_render_dashboard_gives(tmp_path):
    comparison = hostile()
    write_dashboard(comparison, tmp_path / "deep" / "page.html")
    kind, _, rest = (tmp_path / "deep" / "page.html").read_text(encoding="utf-8").split("\n", 2)  # the second: a digest
    assert f"{kind}\n{rest}" == render_dashboard(comparison)
    with pytest.raises(InputError, match=r"while writing .*page.html"):
        write_dashboard(comparison, tmp_path / "deep" / "page.html" / "page.html")
