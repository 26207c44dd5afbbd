"""Results survive a round trip through JSON."""

import dataclasses
import json
import math

import pytest

from itda_lightning.dictionary.sources import Prompt, Source
from itda_lightning.errors import InputError
from itda_lightning.results.as_json import from_json, to_json
from itda_lightning.results.comparison import (
    Comparison,
    Cost,
    Encoding,
    Estimate,
    LatentSummary,
    LatentView,
    NearestLatents,
    Row,
)
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
    detected=(Detection(0.5, PROMPT),),
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
    worst=(TokenDecomposition(PROMPT, 0.75, 7.5, (), 6.5),),
    reading=(ReadRow(("<s>", " a"), (None, TokenCode(0.5, 3.0, (1, 0), (2.0, -1.0)))),),
    meanings=(AtomMeaning(((1, 0.5),), (" x",), (" y",)), AtomMeaning(())),
    signed=False,
)


def test_json_and_back_is_the_same():
    text = to_json(RESULTS)
    assert from_json(text, RunResults) == RESULTS
    assert list(json.loads(text)["results"]["metrics"]) == list(RESULTS.metrics)


def test_results_of_version_3_have_the_distance_from_the_mean_as_their_norm():
    content = json.loads(to_json(RESULTS)) | {"version": 3}
    results = content["results"]
    for name in ("worst", "reading", "meanings", "signed"):
        del results[name]
    del results["usage"]["unexplained"], results["decompositions"][0]["distance"]
    read = from_json(json.dumps(content), RunResults)
    assert math.isnan(read.decompositions[0].norm)
    assert read.decompositions[0].distance == RESULTS.decompositions[0].norm
    assert (read.worst, read.reading, read.meanings, read.signed) == ((), (), (), True)


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


ROW = Row(
    name="ITDA, “4,096”",
    kind="itda",
    architecture="itda",
    width=3,
    settings={"k": "4", "centred": "True"},
    tokens_hash="ab",
    identity="cd",
    measures={"l0": Estimate(4.0, 0.1 + 0.2), "fvu": Estimate(0.25, 1e-17), "dead_share": Estimate(0.0)},
    cost=Cost(1.5, None, 2**40, 10, 2**33, 99, None, 1e5),
    densities=(0.5, 0.0, 1e-9),
    curve=((128, 0.5), (256, 0.25)),
    measured_seconds=3.5,
    reused=True,
    encoding=Encoding(4, "omp", False, True),
)
FAILED = Row("Lost", "sae", failure='it was\nlost: "<b>"')
SUMMARY = LatentSummary(7, 0.125, 4.0, (0, 1), ((31, -2.5), (5, 1.0)), (0, 1), (1,))
COMPARISON = Comparison(
    title="A comparison",
    facts={"model": "m", "hardware": "2 CPU cores"},
    rows=(ROW, FAILED),
    latents=LatentView(
        "ITDA, “4,096”",
        (("<s>", " a", "🙂"), ("b", "", "c")),
        (" x", "y"),
        (SUMMARY, SUMMARY),
        (PROMPT, None),
        (NearestLatents("Lost", ((7, -0.75), (7, 0.5)), (SUMMARY,)),),
        (0.9, 1.0),
    ),
)


@pytest.mark.parametrize("results", [ROW, FAILED, COMPARISON, dataclasses.replace(COMPARISON, latents=None)])
def test_rows_and_comparisons_come_back_as_they_were(results):
    back = from_json(to_json(results), type(results))
    assert back == results
    assert repr(back) == repr(results), "of the same types: tuples, floats, prompts"


def test_the_order_of_measures_and_facts_is_kept():
    assert list(from_json(to_json(ROW), Row).measures) == ["l0", "fvu", "dead_share"]
    assert list(from_json(to_json(COMPARISON), Comparison).facts) == ["model", "hardware"]


def test_a_measure_without_a_number_comes_back_as_nan_and_a_missing_cost_as_none():
    row = dataclasses.replace(
        ROW, measures={"fvu": Estimate(math.nan, math.inf)}, curve=((1, -math.inf),), cost=Cost(seconds=math.nan)
    )
    text = to_json(row)
    assert json.loads(text)["results"]["measures"]["fvu"] == dict.fromkeys(("value", "error", "documents", "draws"))
    back = from_json(text, Row)
    assert math.isnan(back.value("fvu"))
    assert math.isnan(back.value("l0"))
    assert math.isnan(back.curve[0][1])
    assert back.measures["fvu"].error is back.cost.seconds is None


@pytest.mark.parametrize(("results", "kind"), [(ROW, Comparison), (COMPARISON, Row), (RESULTS, Row), (ROW, RunResults)])
def test_results_of_another_kind_are_refused(results, kind):
    with pytest.raises(InputError, match=r"expected JSON of the format 'itda_lightning\.(row|comparison|results)'"):
        from_json(to_json(results), kind)


def test_a_row_that_lacks_a_field_is_refused():
    content = json.loads(to_json(COMPARISON))
    del content["results"]["rows"][0]["cost"]["peak_bytes"]
    with pytest.raises(
        InputError, match=r"lack a field or hold one of another kind \('peak_bytes' @ \$\.rows\[0\]\.cost\)"
    ):
        from_json(json.dumps(content), Comparison)


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("densities",), [0.5, "much"], r"expected float, got 'much' @ \$\.densities\[1\]"),
        (("reused",), "True", r"expected bool, got 'True' @ \$\.reused"),
        (("width",), 3.5, r"expected int, got 3\.5 @ \$\.width"),
        (("name",), None, r"expected str, got None @ \$\.name"),
        (("kind",), "tree", r"@ \$\.kind"),
        (("cost",), [], r"@ \$\.cost"),
        (("encoding", "nonnegative"), 0, r"expected bool, got 0 @ \$\.encoding\.nonnegative"),
        (("curve",), [[1, 0.5, 2]], r"@ \$\.curve\[0\]"),
    ],
)
def test_a_field_of_another_type_is_refused_and_named(path, value, problem):
    content = json.loads(to_json(ROW))
    part = content["results"]
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    with pytest.raises(InputError, match=problem):
        from_json(json.dumps(content), Row)


@pytest.mark.parametrize("kind", [Row, Comparison])
def test_rows_of_the_first_version_get_the_types_of_today(kind):
    words = {"k": "4", "pursuit": "omp", "nonnegative": "False", "centred": "True", "seed": "0"}
    row = dataclasses.replace(ROW, settings=words)
    content = json.loads(to_json(row if kind is Row else dataclasses.replace(COMPARISON, rows=(row, FAILED))))
    content["version"] = 1
    for part in [content["results"]] if kind is Row else content["results"]["rows"]:
        del part["encoding"]
    results = from_json(json.dumps(content), kind)
    rows = (results,) if kind is Row else results.rows
    assert rows == ((row,) if kind is Row else (row, FAILED))
