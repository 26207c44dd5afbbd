"""Differences of two entries over the documents and draws that both share, against plain sums in float64."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itda_lightning.comparison.bootstrap import DocumentSums
from itda_lightning.errors import InputError
from itda_lightning.results.as_json import from_json, to_json
from itda_lightning.results.comparison import ByDocument, ByDraw, Estimate, Row
from itda_lightning.results.paired import RESAMPLES, paired_difference

Sums = Sequence[tuple[float, float]]


def row(name: str, estimate: Estimate, tokens_hash: str = "a" * 16, measure: str = "fvu") -> Row:
    return Row(name, "sae", tokens_hash=tokens_hash, measures={measure: estimate})


def of_documents(name: str, sums: Sums, **options: str) -> Row:
    above, below = (tuple(map(float, part)) for part in zip(*sums, strict=True))
    return row(name, Estimate(sum(above) / sum(below), 0.1, ByDocument(above, below)), **options)


def by_definition(one: Sums, other: Sums) -> tuple[float, float]:
    """The ratio of sums of either entry, of all documents and of each resample, subtracted."""
    drawn = torch.randint(len(one), (RESAMPLES, len(one)), generator=torch.Generator().manual_seed(0)).numpy()

    def ratios(sums: Sums, documents: np.ndarray) -> np.ndarray:
        above, below = np.array(sums)[documents].sum(-2).T
        return above / below

    value, error = (
        ratios(one, documents) - ratios(other, documents) for documents in (np.arange(len(one))[None], drawn)
    )
    return float(value[0]), float(error.std(ddof=1))


sums = st.tuples(st.floats(0, 10), st.floats(0.1, 10), st.floats(0, 10), st.floats(0.1, 10))


@given(st.lists(sums, min_size=2, max_size=12))
def test_differences_are_those_of_the_definition(documents: list[tuple[float, float, float, float]]) -> None:
    one, other = [(a, b) for a, b, _, _ in documents], [(c, d) for _, _, c, d in documents]
    found = paired_difference(of_documents("one", one), of_documents("other", other), "fvu")
    value, error = by_definition(one, other)
    assert found is not None
    assert found.value == pytest.approx(value, rel=1e-9, abs=1e-12)
    assert found.error == pytest.approx(error, rel=1e-9, abs=1e-11)


def test_the_error_is_that_of_whole_documents_drawn_anew() -> None:
    """With other draws, of tokens and not of sums."""
    chance = np.random.default_rng(0)
    tokens = [chance.normal(chance.normal(size=2), 0.3, (size, 2)) for size in chance.integers(5, 40, 30)]
    one, other = (of_documents(name, [(d[:, i].sum(), len(d)) for d in tokens]) for i, name in enumerate("ab"))
    gaps = []
    for _ in range(4000):
        drawn = np.concatenate([tokens[i] for i in chance.integers(len(tokens), size=len(tokens))])
        gaps.append(drawn[:, 0].mean() - drawn[:, 1].mean())
    found = paired_difference(one, other, "fvu")
    assert found is not None
    assert found.error == pytest.approx(np.std(gaps, ddof=1), rel=0.08)


def test_the_resamples_are_those_of_the_errors_of_single_rows() -> None:
    document = torch.arange(9).repeat_interleave(4)
    measured = DocumentSums(document)
    measured.update(document, x=torch.randn(36, generator=torch.Generator().manual_seed(1)), tokens=torch.ones(36))
    estimate = measured.ratio(measured.sums["x"], measured.sums["tokens"])
    nothing = replace(estimate, documents=ByDocument((0.0,) * 9, (4.0,) * 9))
    found = paired_difference(row("one", estimate), row("nothing", nothing), "fvu")
    assert found is not None
    assert (found.value, found.error) == pytest.approx((estimate.value, estimate.error), rel=1e-12)


def test_what_differs_alike_in_every_document_is_certain() -> None:
    found = paired_difference(
        of_documents("one", [(1.5, 2), (30.5, 2), (9.5, 4)]), of_documents("other", [(1, 2), (30, 2), (8.5, 4)]), "fvu"
    )
    assert found is not None
    assert (found.value, found.error) == pytest.approx((0.25, 0), abs=1e-12)


def test_scores_of_probes_are_subtracted_draw_by_draw() -> None:
    def probes(*scores: tuple[float, ...], examples: str = "e") -> Row:
        return row(examples, Estimate(0.5, 0.1, draws=ByDraw(scores, examples)))

    one, other = probes((0.9, 0.6), (0.7, 0.8), (0.5, 0.5)), probes((0.8, 0.4), (0.7, 0.8), (0.4, 0.4))
    found = paired_difference(one, other, "fvu")
    assert found is not None
    # Differences of .1 and .2, 0 and 0, .1 and .1: only the first dataset's vary, by .005 around their mean.
    assert (found.value, found.error) == pytest.approx((0.5 / 6, math.sqrt(0.005 / 2) / 3))
    assert paired_difference(probes((0.75,)), probes((0.5,)), "fvu") == Estimate(0.25, None)
    for others in (probes((0.9, 0.6), (0.7, 0.8), (0.5, 0.5), examples="f"), probes((0.9, 0.6))):
        with pytest.raises(InputError, match=r"the figures of e and . are scores of different examples: measure both"):
            paired_difference(one, others, "fvu")


def test_other_documents_are_refused() -> None:
    one = of_documents("one", [(1, 2), (3, 4)])
    for other, why in (
        (of_documents("other", [(1, 2), (3, 4)], tokens_hash="b"), r"of different held-out tokens \(a{16} and b\)"),
        (row("other", Estimate(0.5, 0.1), tokens_hash=""), r"of different held-out tokens \(a{16} and unknown\)"),
        (of_documents("other", [(1, 2), (3, 4), (5, 6)]), "sums of different documents"),
    ):
        with pytest.raises(InputError, match=f"figures of one and other are {why}: measure both in one comparison"):
            paired_difference(one, other, "fvu")


def test_rows_of_earlier_versions_load_and_are_not_paired() -> None:
    today = of_documents("one", [(1, 2), (3, 4)])
    assert from_json(to_json(today), Row) == today
    content = json.loads(to_json(today)) | {"version": 4}
    assert content["results"]["measures"]["fvu"].pop("documents") == {"above": [1, 3], "below": [2, 4]}
    assert content["results"]["measures"]["fvu"].pop("draws") is None
    earlier = from_json(json.dumps(content), Row)
    assert earlier.measures["fvu"] == Estimate(4 / 6, 0.1)
    assert paired_difference(earlier, today, "fvu") is paired_difference(today, earlier, "fvu") is None
    assert paired_difference(today, today, "l0") is None


@pytest.mark.parametrize(
    ("part", "damage"),
    [
        ("documents", {"above": [1.0], "below": [2.0, 3.0]}),
        ("documents", {"above": [], "below": []}),
        ("draws", {"scores": [[0.5], [0.5, 0.6]], "examples": "e"}),
        ("draws", {"scores": [], "examples": "e"}),
        ("draws", {"scores": [[]], "examples": "e"}),
    ],
)
def test_parts_that_do_not_fit_are_damage(part: str, damage: dict[str, object]) -> None:
    content = json.loads(to_json(of_documents("one", [(1, 2), (3, 4)])))
    content["results"]["measures"]["fvu"][part] = damage
    with pytest.raises(InputError, match=r"hold one of another kind \(.*expected as many"):
        from_json(json.dumps(content), Row)
