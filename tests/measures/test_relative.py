"""Relative representations over batches, and unusable anchors; their laws are tested with those of all measures."""

import pytest
import torch

from itda_lightning import InputError, relative_similarity
from itda_lightning.measures import RelativeSimilarity
from tests.measures.representations import draw, related


def over_batches(x: torch.Tensor, y: torch.Tensor, size: int) -> RelativeSimilarity:
    similarity = RelativeSimilarity(x[:5], y[:5])
    for batch in zip(x.split(size), y.split(size), strict=True):
        similarity.update(*batch)
    return similarity


def test_it_is_the_mean_of_each_tokens_cosine_and_an_empty_batch_changes_nothing() -> None:
    x, y = related(0, 50, 4, 6)
    similarity, cosines = over_batches(x, y, 20), []
    for token in range(50):
        alone = RelativeSimilarity(x[:5], y[:5])
        alone.update(x[token : token + 1], y[token : token + 1])
        cosines.append(alone.compute())
    assert similarity.n == 50
    assert similarity.compute() == pytest.approx(sum(cosines) / 50, rel=1e-14)
    similarity.update(x[:0], y[:0])
    assert similarity.n == 50


def test_a_token_without_any_relative_direction_counts_as_zero() -> None:
    anchors = torch.eye(3, dtype=torch.float64)[:2]
    similarity = RelativeSimilarity(anchors, anchors)
    token = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    similarity.update(token, token)
    assert similarity.compute() == 0.0


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
def test_one_anchor_is_refused(anchors: list[int]) -> None:
    x = draw(0, 30, 3)
    with pytest.raises(InputError, match=f"anchors must be at least 2, got {len(anchors)}: with one anchor the cos"):
        relative_similarity(x, x, torch.tensor(anchors, dtype=torch.int64))


def test_bad_input() -> None:
    x = draw(0, 30, 3)
    with pytest.raises(InputError, match="x has 2 rows and y has 3"):
        RelativeSimilarity(x[:2], x[:3])
    running = RelativeSimilarity(x[:3], x[:3])
    with pytest.raises(InputError, match="0 tokens are too few: give at least 1"):
        running.compute()
    with pytest.raises(InputError, match="y has 4 dimensions, earlier batches had 3"):
        running.update(x, draw(0, 30, 4))
