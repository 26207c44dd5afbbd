"""Results whose text tries to break out of wherever it is put."""

import pytest

from itda_lightning.dictionary.sources import Prompt, Source
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

HOSTILE = (
    Prompt('<script>document.title = "broken"</script> <!-- ', "</script>", "<img src=x onerror=alert(1)> --> ]]>"),
    Prompt('it\'s "quoted" & ', "[red]markup[/red]", " {{ 7 * 7 }} {% raw %} \\u003c ${1}"),
    Prompt("family 👩‍👩‍👧 ", "🙂", " done"),
    Prompt("שלום עולם אמר ", "הילד", " לאמו"),
    Prompt("first\nsecond\r\n", "\n\n", "\tthird\u2028\x1b[31m\x00\u202eend"),
)
BINS = 64


def usage_of(atom: int) -> AtomUsage:
    """Atom 5 is dead and without a prompt; the others have two positive ranges and a negative one."""
    if atom == 5:
        return AtomUsage(5, None, None, 0, 0.0, 0.0, (0,) * BINS, (), ())
    prompt = HOSTILE[atom % len(HOSTILE)]
    count = 10 + atom
    histogram = [0] * BINS
    histogram[30], histogram[40], histogram[62] = 2, count - 3, 1
    ranges = (
        CoefficientRange(6.0, 8.0, 1, ()),
        CoefficientRange(2.0, 4.0, count - 3, (Example(2.125, prompt), Example(2.0625, prompt))),
        CoefficientRange(-2.0, 0.0, 2, (Example(-0.4375, prompt),)),
    )
    source = Source(atom, 2 * atom, 7, 1234, 100, 104)
    top = (Example(7.625, prompt),)
    detected = (Detection(0.9375, prompt), Detection(-0.25, prompt))
    return AtomUsage(atom, source, prompt, count, count / 400, 8.0, tuple(histogram), top, ranges, detected)


@pytest.fixture(scope="session")
def results() -> RunResults:
    terms = tuple(Term(atom, 9.5 - 2 * atom, prompt) for atom, prompt in enumerate(HOSTILE))
    return RunResults(
        title="A <b>run</b> & more",
        facts={"model": "<i>m</i>", "hook point": "blocks.3.hook_resid_post", "dataset": "https://example.org/d"},
        metrics={"n_atoms": 90, "fvu": 0.123456789, "model/ce_loss_score": 0.98765, "<u>": float("nan")},
        usage=Usage(
            400, 10.0, 81.0, (0, 100, 250, 50), tuple(usage_of(atom) for atom in range(90)), (40, 300, 60, 0, 0)
        ),
        decompositions=tuple(
            TokenDecomposition(prompt, 0.0625, 12.75, (*terms, Term(5, -0.375, None))) for prompt in HOSTILE
        ),
        growth=((1000, 40), (2000, 70), (3000, 90)),
        fvu_curve=((1000, 0.5), (2000, 0.25), (3000, 0.125)),
        worst=tuple(TokenDecomposition(prompt, 0.75, 25000.0, terms[:1]) for prompt in HOSTILE),
        reading=tuple(reading_of(prompt, number) for number, prompt in enumerate(HOSTILE)),
        meanings=tuple(
            AtomMeaning(((89 - atom, 0.75),), (HOSTILE[atom % 5].token, " on"), ("<b>off</b>",)) for atom in range(90)
        ),
    )


def reading_of(prompt: Prompt, number: int) -> ReadRow:
    """A text whose first token has no code; its last uses atom 40 and another one, that with a negative coefficient."""
    codes = (None, TokenCode(0.5, 10.0, (number,), (4.0,)), TokenCode(0.125, 20.0, (40, 41 + number), (8.0, -2.0)))
    return ReadRow((prompt.before, prompt.token, prompt.after), codes)
