"""The figures of the study of detection, against their definitions."""

import pytest
import torch
from sklearn.metrics import roc_auc_score

import itda_lightning as il
from benchmarks.quality import detection, novelty


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


def test_detections_are_judged_from_the_token(monkeypatch):
    monkeypatch.setattr(detection, "DETECTIONS", 1)
    dictionary = il.Dictionary(torch.eye(3), k=1)
    x, training = torch.tensor([[1.0, 0.1, 0.0], [0.0, 1.0, 0.1]]), torch.eye(3)[[0, 0, 1, 2]] + 0.1
    tokens, labels = torch.tensor([7, 9]), torch.tensor([7, 8, 9])
    rows = detection.by_token(dictionary, x, training, tokens, labels)
    assert [row["ranked by"].split()[0] for row in rows] == ["cosine", "cosine", "quantile"]
    assert rows[0] == {"ranked by": "cosine", "detections": 2, "precision": 0.5, "recall": 0.5}
    # Two of four training activations are as near to the first atom, of each other atom one.
    assert (rows[2]["precision"], rows[2]["recall"]) == (0.5, 0.5)


def test_other_text_is_stranger_than_what_the_atoms_explain():
    dictionary = il.Dictionary(torch.eye(4)[:2], k=2)
    training = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.1]])
    scored = novelty.scores(dictionary, torch.tensor([[3.0, 4.0, 0.0, 0.0], [0.0, 3.0, 0.0, 4.0]]), training)
    torch.testing.assert_close(scored["share unexplained"], torch.tensor([0.0, 16 / 25], dtype=torch.float64))
    torch.testing.assert_close(scored["1 - largest cosine"], torch.tensor([0.2, 0.4], dtype=torch.float64))
    torch.testing.assert_close(scored["norm"], torch.tensor([5.0, 5.0], dtype=torch.float64))
    assert scored["Mahalanobis distance"][1] > 3 * scored["Mahalanobis distance"][0]


def test_windows_stay_within_rows():
    score, rows = torch.tensor([1.0, 3.0, 5.0, 7.0, 9.0]), torch.tensor([0, 0, 0, 1, 1])
    assert novelty.windows(score, rows, 2).tolist() == [2.0, 8.0]
    assert novelty.windows(score, rows, 4).tolist() == []
