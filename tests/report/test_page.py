"""The page as text: complete, self-contained, and safe whatever the prompts hold."""

import dataclasses
import html
import random
import re
from html.parser import HTMLParser

import pytest

from itda_lightning.dictionary.sources import Prompt, Source
from itda_lightning.errors import InputError
from itda_lightning.report.pages.dictionary_page import render_page, write_page
from itda_lightning.results.run_results import (
    AtomMeaning,
    AtomUsage,
    CoefficientRange,
    Detection,
    Example,
    ReadRow,
    RunResults,
    Term,
    TokenCode,
    TokenDecomposition,
    Usage,
)
from tests.pages import data_in
from tests.report.conftest import BINS, HOSTILE, usage_of


class Page(HTMLParser):
    """The tags, texts and scripts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self.marks: list[str] = []
        self.inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style", "mark"):
            self.inside.append(tag)

    def handle_endtag(self, tag):
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data):
        if not self.inside:
            self.texts.append(data)
        elif self.inside[-1] == "script":
            self.scripts.append(data)
        elif self.inside[-1] == "mark":
            self.marks.append(data)

    def values(self) -> list[str | None]:
        return [attributes["value"] for tag, attributes in self.tags if tag == "data"]


def test_text_from_data_never_becomes_markup(results):
    page = Page(render_page(results))
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == 2
    assert not {"img", "b", "i", "u", "iframe", "object", "link"} & set(tags)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "A <b>run</b> & more" in page.texts
    for prompt in HOSTILE[:4]:
        assert prompt.token in page.marks
    assert any("{{ 7 * 7 }}" in text for text in page.texts)


def test_characters_that_would_not_show_are_shown(results):
    text = render_page(results)
    assert "<mark>⏎⏎</mark>⇥third⏎␛[31m␀\ufffdend" in text
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_embedded_data_is_that_of_the_results(results):
    data = data_in(render_page(results))
    assert data["tokens"] == 400
    assert len(data["atoms"]) == 90
    for atom, given in zip(data["atoms"], results.usage.atoms, strict=True):
        assert (atom["atom"], atom["count"], atom["density"]) == (given.atom, given.count, given.density)
        assert sum(atom["histogram"]["counts"]) == given.count
        assert [part["count"] for part in atom["ranges"]] == [part.count for part in given.ranges]
    histogram = data["atoms"][0]["histogram"]
    assert (histogram["low"], histogram["width"], histogram["counts"][0]) == (-0.5, 0.25, 2)


def test_numbers_on_the_page_are_those_of_the_results(results):
    text = render_page(results)
    page = Page(text)
    shown = re.findall(r'data-metric="([^"]+)">.*?<data value="([^"]+)">([^<]+)<', text, re.DOTALL)
    assert [(html.unescape(key), value) for key, value, _ in shown] == [
        (key, str(value)) for key, value in results.metrics.items()
    ]
    assert [words for _, _, words in shown] == ["90", "0.1235", "0.9877", "not measured"]
    for decomposition in results.decompositions:
        for number in (decomposition.unexplained, decomposition.norm, *(t.coefficient for t in decomposition.terms)):
            assert str(number) in page.values()
    assert '<strong data-dead="1">1</strong>' in text
    assert "Atoms: 40 after 1,000 activations, 90 after 3,000." in text
    assert "L0 = 2: 250 tokens (62%)" in text


def test_every_atom_of_a_decomposition_is_linked(results):
    links = [attributes["href"] for tag, attributes in Page(render_page(results)).tags if "href" in attributes]
    assert links.count("#atom-5") == len(results.decompositions)


def test_the_page_refers_to_nothing_outside_itself(results):
    text = render_page(results)
    page = Page(text)
    references = [v for _, attributes in page.tags for k, v in attributes.items() if k in ("src", "href", "action")]
    assert references
    assert all(reference.startswith("#") for reference in references)
    # The only address anywhere is the one that the facts give, as text.
    assert re.findall(r"\w+://[^\s<]*", text) == ["https://example.org/d"]
    assert "url(" not in text
    assert "@import" not in text
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


def test_a_prompt_is_cut_around_its_token(results):
    usage = results.usage
    long = dataclasses.replace(usage.atoms[0], prompt=Prompt("b" * 5000, "token", "a" * 5000))
    page = render_page(dataclasses.replace(results, usage=dataclasses.replace(usage, atoms=(long,)), meanings=()))
    assert "b" * 300 not in page
    assert "a" * 300 not in page


def test_special_tokens_are_quiet_and_never_cut_in_two(results):
    usage = results.usage
    before = "<|im_start|>" + "b" * 275
    terms = (Term(0, 1.0, Prompt("<s>", "<|im_end|>", "</s>")),)
    decompositions = (
        TokenDecomposition(Prompt(before, "token", "</s> <sup>"), 0.1, 1.0, terms),
        TokenDecomposition(Prompt("x" + before[:260], "token", ""), 0.1, 1.0, ()),
    )
    text = render_page(dataclasses.replace(results, decompositions=decompositions, usage=usage))
    assert (
        f'dir="auto">…{"b" * 275}<mark>token</mark><span class="special">&lt;/s&gt;</span> &lt;sup&gt;</span>' in text
    )
    assert f'dir="auto">x<span class="special">&lt;|im_start|&gt;</span>{"b" * 248}<mark>' in text
    assert '<span class="special">&lt;s&gt;</span><mark>&lt;|im_end|&gt;</mark><span class="special">' in text


def test_small_terms_are_folded_and_counted(results):
    terms = tuple(Term(i, 20.0 - i, None) for i in range(15))
    decomposition = TokenDecomposition(HOSTILE[0], 0.1, 1.0, terms)
    text = render_page(dataclasses.replace(results, decompositions=(decomposition,)))
    assert "15 atoms leave" in text
    shown, folded = text.split("<details>")
    assert "3 more atoms with smaller coefficients" in folded
    assert shown.count('href="#atom-') == 12
    assert [f'<data value="{term.coefficient}">' in folded for term in terms] == [False] * 12 + [True] * 3
    few = dataclasses.replace(decomposition, terms=terms[:12])
    assert "<details>" not in render_page(dataclasses.replace(results, decompositions=(few,)))


def test_results_without_curves_decompositions_or_use_still_make_a_page():
    dead = Usage(10, 1.0, 1.0, (10, 0), (usage_of(5),))
    text = render_page(RunResults("Nothing", {}, {}, dead))
    assert not re.findall('data-plot="(?:growth|unexplained|l0)"', text)  # all codes have as many atoms: no plot
    assert 'id="reading"' not in text
    assert "None of 10 held-out tokens used any atom." in text


def test_long_curves_are_thinned(results):
    growth = tuple((tokens, tokens) for tokens in range(1, 20_001))
    text = render_page(dataclasses.replace(results, growth=growth))
    path = re.search(r'data-plot="growth".*?class="curve" d="([^"]+)"', text, re.DOTALL)
    assert path is not None
    assert path[1].count("L") < 600


def test_points_that_could_not_be_measured_are_left_out(results):
    curve = ((1000, float("nan")), (2000, 0.5))
    text = render_page(dataclasses.replace(results, fvu_curve=curve))
    assert "FVU 0.5 after 2,000 activations" in text
    assert not any("nan" in shown for shown in Page(text).texts)
    path = re.search(r'data-plot="fvu".*?class="curve" d="([^"]+)"', text, re.DOTALL)
    assert path is not None
    assert "nan" not in path[1]


def test_write_page_writes_what_render_page_gives(results, tmp_path):
    write_page(results, tmp_path / "deep" / "page.html")
    kind, digest, rest = (tmp_path / "deep" / "page.html").read_text(encoding="utf-8").split("\n", 2)
    assert f"{kind}\n{rest}" == render_page(results)
    assert re.fullmatch(r'<!-- "itda_lightning.digest": "xxh128:[0-9a-f]{32}" -->', digest)
    with pytest.raises(InputError, match=r"while writing .*page.html"):
        write_page(results, tmp_path / "deep" / "page.html" / "page.html")


def test_shares_that_are_left_unexplained_are_drawn(results):
    text = render_page(results)
    assert "Unexplained shares of 400 tokens; the median lies between 20% and 40%." in text
    assert "300 tokens (75%) with 20% to 40% unexplained" in text


def test_the_data_take_little_room(results):
    """4,096 atoms with 34 examples each of 16,384 held-out tokens, and texts to read: at most 4 MB."""
    words = [f"w{number * 7919 % 5003}" for number in range(128 * 128)]
    prompts = [
        Prompt(" ".join(words[row * 128 : token]), f" {words[token]}", " ".join(words[token + 1 : row * 128 + 128]))
        for row in range(128)
        for token in range(row * 128, row * 128 + 128)
    ]
    pick = random.Random(0)

    def examples(count: int, high: float) -> tuple[Example, ...]:
        return tuple(Example(high * pick.random(), pick.choice(prompts)) for _ in range(count))

    def atom(number: int) -> AtomUsage:
        ranges = tuple(CoefficientRange(float(low), low + 1.0, 9, examples(3, 1.0)) for low in range(8))
        detected = tuple(Detection(found.coefficient, found.prompt) for found in examples(5, 1.0))
        histogram = tuple(pick.randrange(99) for _ in range(BINS))
        source = Source(number, number, 7, number, 100, 104)
        return AtomUsage(number, source, prompts[number], 99, 0.1, 8.0, histogram, examples(5, 9.0), ranges, detected)

    code = tuple(
        TokenCode(pick.random(), 90.0, tuple(range(32)), tuple(pick.random() for _ in range(32))) for _ in words[:128]
    )
    large = dataclasses.replace(
        results,
        usage=dataclasses.replace(results.usage, atoms=tuple(map(atom, range(4096)))),
        reading=(ReadRow(tuple(words[:128]), code),) * 24,
        meanings=tuple(
            AtomMeaning(
                tuple((pick.randrange(4096), pick.random()) for _ in range(6)), tuple(words[:8]), tuple(words[8:16])
            )
            for _ in range(4096)
        ),
    )
    assert len(render_page(large).encode()) < 4_000_000
