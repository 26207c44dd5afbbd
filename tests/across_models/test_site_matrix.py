"""Layer matching against Eq. 9 written out, with and without self-pairs."""

import itertools
import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from itda_lightning.across_models.site_matrix import matching_accuracy


def places(*sizes: int) -> list[range]:
    ends = torch.tensor([0, *sizes]).cumsum(0).tolist()
    return [range(a, b) for a, b in itertools.pairwise(ends)]


@given(st.integers(2, 4), st.integers(1, 4), st.integers(0, 10_000))
def test_it_is_the_mean_of_the_terms_of_eq_9(models: int, layers: int, seed: int) -> None:
    values = torch.rand(
        models * layers, models * layers, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    values.fill_diagonal_(1.0)
    right = {
        (a, b, i): int(values[a * layers + i, b * layers : (b + 1) * layers].argmax()) == i
        for a in range(models)
        for b in range(models)
        for i in range(layers)
    }
    without = [hit for (a, b, _), hit in right.items() if a != b]
    of_models = places(*[layers] * models)
    assert math.isclose(matching_accuracy(values, of_models), sum(without) / len(without))
    assert math.isclose(matching_accuracy(values, of_models, self_pairs=True), sum(right.values()) / len(right))


def test_models_of_other_depths_are_left_out_and_a_single_model_has_no_accuracy() -> None:
    values = torch.eye(5)
    values[:2, 2:4] = values[2:4, :2] = torch.eye(2)
    assert matching_accuracy(values, places(2, 2, 1)) == 1.0
    assert math.isnan(matching_accuracy(values, places(2, 3)))
    assert math.isnan(matching_accuracy(values, places(5), self_pairs=True))
