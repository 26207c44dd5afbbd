"""Relative representations over batches, and anchors that cannot serve; laws and definition stand with all measures."""

import pytest
import torch

from itda_lightning import InputError, relative_similarity
from itda_lightning.measures import RelativeSimilarity
from tests.measures.representations import draw, related


def test_batches_give_each_tokens_cosine() -> None:
    x, y = related(0, 50, 4, 6)
    running = RelativeSimilarity(x[:5], y[:5])
    cosines = torch.cat([running.add(*batch) for batch in zip(x.split(20), y.split(20), strict=True)])
    assert cosines.shape == (50,)
    assert running.n == 50
    assert running.value() == pytest.approx(float(cosines.mean()), rel=1e-14)
    assert running.add(x[:0], y[:0]).shape == (0,)


def test_a_token_without_any_relative_direction_counts_as_zero() -> None:
    anchors = torch.eye(3, dtype=torch.float64)[:2]
    running = RelativeSimilarity(anchors, anchors)
    token = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    assert running.add(token, token).tolist() == [0.0]


def test_norms_do_not_matter_however_small_or_large() -> None:
    x, y = related(1, 60, 4, 6)
    lengths = torch.logspace(-60, 60, 60, dtype=x.dtype)[:, None]
    anchors = torch.arange(5)
    assert relative_similarity(x * lengths, y, anchors) == pytest.approx(relative_similarity(x, y, anchors), rel=1e-12)


@pytest.mark.parametrize("anchors", [[0, -1], [3, 30]])
def test_anchors_must_be_tokens(anchors: list[int]) -> None:
    x = draw(0, 30, 3)
    with pytest.raises(InputError, match="anchors must be indices of the 30 tokens"):
        relative_similarity(x, x, torch.tensor(anchors))


@pytest.mark.parametrize("anchors", [[], [4]])
def test_one_anchor_tells_nothing(anchors: list[int]) -> None:
    x = draw(0, 30, 3)
    with pytest.raises(InputError, match=f"anchors must be at least 2, got {len(anchors)}: with a single one the cos"):
        relative_similarity(x, x, torch.tensor(anchors, dtype=torch.int64))


def test_bad_input() -> None:
    x = draw(0, 30, 3)
    with pytest.raises(InputError, match="x has 2 rows and y has 3"):
        RelativeSimilarity(x[:2], x[:3])
    running = RelativeSimilarity(x[:3], x[:3])
    with pytest.raises(InputError, match="0 tokens are too few: give at least 1"):
        running.value()
    with pytest.raises(InputError, match="y has 4 dimensions where batches before had 3"):
        running.add(x, draw(0, 30, 4))
