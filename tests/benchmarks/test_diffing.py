"""The controls and scores of `benchmarks/diffing/run.py`, and its passages."""

import json

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.diffing import planted
from benchmarks.diffing import run as script
from itda_lightning.measures import cka


def test_cka_without_each_source_is_cka_of_the_others() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 5, generator=generator, dtype=torch.float64)
    y = x @ torch.randn(5, 4, generator=generator, dtype=torch.float64) + torch.randn(30, 4, generator=generator)
    others = [torch.arange(30) != row for row in range(30)]
    expected = torch.tensor([cka(x[rest], y[rest]) for rest in others], dtype=torch.float64)
    found = script.cka_without_each(x - x.mean(0), y - y.mean(0))
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


@given(
    values=st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3)), min_size=2, max_size=30),
)
def test_measures_are_those_of_scikit_learn_with_ties_and_weights(values) -> None:
    score, is_code, weight = zip(*values, strict=True)
    classes = {code for code, times in zip(is_code, weight, strict=True) if times}
    assume(classes == {True, False})
    found = script.measures(
        torch.tensor(score).double(), torch.tensor(is_code), torch.tensor([weight]).double().expand(2, -1)
    )
    expected = [metric(is_code, score, sample_weight=weight) for metric in (roc_auc_score, average_precision_score)]
    assert found.tolist() == [pytest.approx(expected)] * 2


def test_errors_are_of_documents_and_gaps_are_paired() -> None:
    generator = torch.Generator().manual_seed(1)
    values, is_code = torch.rand(40, generator=generator).double(), torch.arange(40) % 3 == 0
    same = {"excess": values, "twice": 2 * values, "none": torch.zeros(40).double()}
    scored = script.score(same, is_code, torch.arange(40) // 4)
    assert scored["none"]["auroc"] == [0.5, 0.0]
    assert scored["none"]["average_precision"][0] == pytest.approx(float(is_code.double().mean()))
    value, error = scored["excess"]["auroc"]
    assert scored["none"]["gap"] == pytest.approx([value - 0.5, error])
    assert scored["twice"]["gap"] == [0.0, 0.0]
    single = script.score(same, is_code, torch.arange(40))
    assert 0 < scored["excess"]["auroc"][1] != single["excess"]["auroc"][1]


def test_passages_are_of_both_domains_and_none_is_trained_on(tmp_path) -> None:
    domains = planted.passages(tmp_path / "passages.jsonl", 20)
    lines = [json.loads(line) for line in (tmp_path / "passages.jsonl").read_text().splitlines()]
    assert [line["domain"] for line in lines] == domains
    assert [domains.count(domain) for domain in planted.DOMAINS] == [20, 20]
    trained, held_out = planted.split(planted.modules())
    assert not set(trained) & set(held_out)
    for line in lines:
        if line["domain"] == "code":
            assert any(line["text"] in text for text in held_out)
            assert not any(line["text"] in text for text in trained)
