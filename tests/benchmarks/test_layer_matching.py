"""Accuracies and errors of `benchmarks/layer_matching`, and its dictionaries with one choice changed at a time."""

import itertools
import math

import pytest
import torch

from benchmarks.layer_matching import accuracy as accuracies
from benchmarks.layer_matching import choices
from benchmarks.layer_matching.anchored import aligned_at
from itda_lightning.across_models.site_matrix import matching_accuracy
from tests.growth.naive import mixtures

LAYERS, MODELS = 3, 4


@pytest.fixture
def values() -> torch.Tensor:
    drawn = torch.rand(
        LAYERS * MODELS, LAYERS * MODELS, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    return drawn + drawn.T


def test_the_error_is_that_of_leaving_each_model_out(values) -> None:
    def of(models: list[int]) -> float:
        kept = [LAYERS * model + layer for model in models for layer in range(LAYERS)]
        places = [range(LAYERS * i, LAYERS * i + LAYERS) for i in range(len(models))]
        return matching_accuracy(values[kept][:, kept], places)

    accuracy, error = choices.accuracy_over_models(values, MODELS)
    assert accuracy == pytest.approx(of(list(range(MODELS))))
    without = [of([other for other in range(MODELS) if other != model]) for model in range(MODELS)]
    mean = sum(without) / MODELS
    assert error == pytest.approx(math.sqrt((MODELS - 1) / MODELS * sum((one - mean) ** 2 for one in without)))


def test_a_neighbour_is_within_one() -> None:
    from_one_to_the_next = torch.eye(4).roll(1, 1).repeat(2, 2)
    assert accuracies.share_within_one(from_one_to_the_next, 2) == 3 / 4, "the last layer has found the first"
    assert accuracies.share_within_one(torch.eye(4).repeat(2, 2), 2) == 1.0


def test_the_lead_of_the_same_layer_is_over_the_layers_next_to_it() -> None:
    block = torch.tensor([[3.0, 1.0, 9.0], [2.0, 5.0, 4.0], [0.0, 1.0, 2.0]])
    values = torch.cat([torch.cat([block, block], 1), torch.cat([block + 2, block], 1)])
    lead, spread = accuracies.lead_of_the_same_layer(values, 2)
    assert lead == pytest.approx((2 + 3 + 1 + 1) / 4)
    assert spread == pytest.approx(2**0.5)


def held(layers: list[torch.Tensor], row: torch.Tensor) -> choices.Activations:
    """Equal models, whose training and held-out activations are the same."""

    class Held(choices.Activations):
        def __init__(self) -> None:
            self.row = row

        def training(self, model: int) -> list[torch.Tensor]:
            return list(layers)

        held_out = training

    return Held()


def test_equal_models_are_found_in_one_order_and_the_index_tells_the_other() -> None:
    layers = [mixtures(600, 12, seed, dtype=torch.float32) for seed in range(LAYERS)]
    activations = held(layers, torch.arange(600) // 4)
    choice = choices.Choice(tokens=600, atoms=60, k=4, window=100)
    row = choices.measure(choice, activations, MODELS)
    assert 50 <= row["atoms"] <= 60
    assert (row["accuracy"], row["error"], row["index_other_model"]) == (1.0, 0.0, 1.0)
    assert row["accuracy_other_order"] == pytest.approx(row["accuracy_same_model_other_order"])
    assert (row["accuracy_by_use"], row["error_by_use"]) == (1.0, 0.0)
    assert row["chance"] < row["index_same_model_other_order"] < 1
    for layer, threshold in zip(layers, row["thresholds"], strict=True):
        grown = choices.grow(layer - layer.mean(0), choice, threshold)
        assert 60 <= len(grown) <= 63
        assert len(set(grown)) == len(grown)


def test_whole_rows_change_places() -> None:
    order = choices.reordered(torch.tensor([0, 0, 1, 1, 1, 2]), seed=1)
    assert sorted(order.tolist()) == list(range(6))
    assert [list(group) for _, group in itertools.groupby(order.tolist(), [0, 0, 1, 1, 1, 2].__getitem__)] in [
        list(rows) for rows in itertools.permutations([[0, 1], [2, 3, 4], [5]])
    ]


def test_the_index_is_that_of_the_first_atoms() -> None:
    first, second = [torch.tensor([0, 4, 2, 9]), torch.tensor([1, 2, 3])], [torch.tensor([2, 0, 7])]
    assert choices.indices(first, second, 3).tolist() == [[2 / 4], [1 / 5]]


def test_aligned_at_the_anchors_a_rotated_site_is_the_same_and_noise_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(400, 16, generator=generator) for _ in range(2))
    rotation = torch.linalg.qr(torch.randn(20, 20, generator=generator)).Q[:16]  # into a wider space
    sites = [x, x @ rotation, noise]
    values = aligned_at([site[:300] for site in sites], [site[300:] for site in sites])
    torch.testing.assert_close(values, values.T)
    torch.testing.assert_close(values.diagonal(), torch.ones(3, dtype=torch.float64))
    assert values[0, 1] == pytest.approx(1, abs=1e-5)
    assert abs(float(values[0, 2])) < 0.2, "a rotation fitted on 100 anchors of 16 dimensions finds nothing elsewhere"
    assert abs(float(aligned_at([x[:300], noise[:300]], [x[:300], noise[:300]])[0, 1])) > 0.1, "but on its own it does"
