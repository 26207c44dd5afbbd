"""Detection, how strongly the meaning of each atom is there, and novelty, how little all of them explain."""

import pytest
import torch

import itda_lightning as il


def test_detection_is_the_cosine_with_each_atom():
    dictionary = il.Dictionary(torch.nn.functional.normalize(torch.randn(12, 6), dim=1), torch.arange(6.0), k=2)
    x = torch.randn(9, 6)
    x[0] = torch.arange(6.0)
    expected = torch.nn.functional.cosine_similarity((x - dictionary.bias)[:, None], dictionary.atoms[None], dim=2)
    torch.testing.assert_close(dictionary.detect(x), expected)
    assert not dictionary.detect(x)[0].any()
    with pytest.raises(ValueError, match=r"x must have shape \(batch, 6\), got \(2, 5\)"):
        dictionary.detect(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="x has 1 non-finite rows"):
        dictionary.detect(torch.full((1, 6), torch.nan))


def test_novelty_is_the_share_left_unexplained():
    dictionary = il.Dictionary(torch.nn.functional.normalize(torch.randn(12, 6), dim=1), torch.arange(6.0), k=2)
    x = torch.randn(9, 6)
    x[0] = torch.arange(6.0)
    left, energy = (part.double().square().sum(1) for part in (x - dictionary(x), x - dictionary.bias))
    novelty = dictionary.novelty(x)
    torch.testing.assert_close(novelty[1:].double(), (left / energy)[1:], rtol=1e-4, atol=1e-5)
    assert novelty[0] == 0
    with pytest.raises(ValueError, match="x has 1 non-finite rows"):
        dictionary.novelty(torch.full((1, 6), torch.nan))
