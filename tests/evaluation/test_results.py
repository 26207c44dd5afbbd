"""Results survive a round trip through JSON."""

import dataclasses
import json
import math

import pytest

from itda_lightning.errors import InputError
from itda_lightning.evaluation.results import (
    AtomUsage,
    CoefficientRange,
    Example,
    RunResults,
    Term,
    TokenDecomposition,
    Usage,
)
from itda_lightning.evaluation.results_json import from_json, to_json
from itda_lightning.sources import Prompt, Source

PROMPT = Prompt('She said "', "</script>", " 🙂 \u2028 שלום\n\x00")
USED = AtomUsage(
    atom=0,
    source=Source(1, 2, 3, 4, 5, 6),
    prompt=PROMPT,
    count=3,
    density=0.75,
    histogram_limit=4.0,
    histogram=(0, 1, 1, 1),
    top=(Example(3.0, PROMPT),),
    ranges=(CoefficientRange(0.0, 4.0, 2, (Example(1.5, PROMPT),)), CoefficientRange(-4.0, 0.0, 1, ())),
)
UNUSED = AtomUsage(1, None, None, 0, 0.0, 0.0, (0, 0, 0, 0), (), ())
RESULTS = RunResults(
    title="A run",
    facts={"model": "m", "hook point": "blocks.3.hook_resid_post"},
    metrics={"n_atoms": 2, "fvu": 0.1 + 0.2, "ce_loss_score": 1.0},
    usage=Usage(4, 2.0, 8.0, (1, 1, 2), (USED, UNUSED)),
    decompositions=(TokenDecomposition(PROMPT, 0.25, 7.5, (Term(0, 3.0, PROMPT), Term(1, -0.5, None))),),
    growth=((128, 1), (256, 2)),
    fvu_curve=((128, 0.5), (256, 0.25)),
)


def test_json_and_back_is_the_same():
    text = to_json(RESULTS)
    assert from_json(text, RunResults) == RESULTS
    assert list(json.loads(text)["results"]["metrics"]) == list(RESULTS.metrics)


def test_numbers_that_are_not_finite_come_back_as_nan():
    metrics = {"ce_loss_score": math.nan, "fvu": math.inf, "n_atoms": 2}
    text = to_json(dataclasses.replace(RESULTS, metrics=metrics, fvu_curve=((128, math.nan),)))
    assert "NaN" not in text
    assert "Infinity" not in text
    back = from_json(text, RunResults)
    assert math.isnan(back.metrics["ce_loss_score"])
    assert math.isnan(back.metrics["fvu"])
    assert back.metrics["n_atoms"] == 2
    assert math.isnan(back.fvu_curve[0][1])


def test_summaries_of_usage():
    usage = RESULTS.usage
    assert usage.fvu == 0.25
    assert usage.l0 == 1.25
    assert usage.dead_atoms == 1
    assert usage.densities == (0.75, 0.0)
    assert math.isnan(dataclasses.replace(usage, variance=0.0).fvu)


def test_other_text_is_refused():
    with pytest.raises(InputError, match="not JSON"):
        from_json("<html>", RunResults)
    with pytest.raises(InputError, match=r"format 'itda_lightning\.results'"):
        from_json("[1]", RunResults)
    with pytest.raises(InputError, match="version 99"):
        from_json('{"format": "itda_lightning.results", "version": 99}', RunResults)
    content = json.loads(to_json(RESULTS))
    del content["results"]["usage"]["n_tokens"]
    with pytest.raises(InputError, match="n_tokens"):
        from_json(json.dumps(content), RunResults)
