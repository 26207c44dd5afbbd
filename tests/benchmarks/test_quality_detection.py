"""The figures of the study of detection, against their definitions."""

import pytest
import torch
from sklearn.metrics import roc_auc_score

from benchmarks.quality import detection


def test_the_area_is_that_of_sklearn_with_ties():
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 6, (300,), generator=generator).float()
    positive = torch.rand(300, generator=generator) < 0.1 + 0.05 * values
    assert detection.area_of(values, positive) == pytest.approx(roc_auc_score(positive.numpy(), values.numpy()))


def test_few_positives_have_no_area():
    positive = torch.zeros(50, dtype=torch.bool)
    positive[:4] = True
    assert detection.area_of(torch.rand(50), positive) is None
    positive[4] = True
    assert detection.area_of(torch.arange(50.0).flip(0), positive) == 1.0


def test_the_share_counts_used_tokens_among_the_strongest_of_all_atoms(monkeypatch):
    monkeypatch.setattr(detection, "TOP", 2)
    values = torch.tensor([[3.0, 0.0], [2.0, 0.0], [1.0, 5.0]])
    tokens, labels = torch.tensor([7, 8, 7]), torch.tensor([7, 7])
    share, _, atoms = detection.figures(lambda part: values[:, part], tokens, labels)
    assert share == pytest.approx(2 / 3)  # tokens 7 and 8 of the first atom, token 7 of the second
    assert atoms == 0
