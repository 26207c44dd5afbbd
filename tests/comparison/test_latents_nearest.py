"""The nearest direction, against all cosines at once in double precision."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itda_lightning.comparison.latents import nearest_directions


@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 40), st.integers(1, 9), st.booleans())
def test_it_has_the_largest_cosine_whatever_the_blocks(seed, m, n, block, signed):
    generator = torch.Generator().manual_seed(seed)
    rows, directions = (torch.randn(size, 6, generator=generator) for size in (m, n))
    directions *= 10 ** torch.randn(n, 1, generator=generator)
    direction, cosine = nearest_directions(rows, directions, signed, block)
    cosines = torch.nn.functional.cosine_similarity(rows[:, None].double(), directions[None].double(), dim=2)
    best = (cosines.abs() if signed else cosines).max(1).values
    reached = cosines.gather(1, direction[:, None])[:, 0]
    assert cosine.tolist() == pytest.approx(reached.tolist(), abs=1e-5)
    assert (reached.abs() if signed else reached).tolist() == pytest.approx(best.tolist(), abs=1e-5)


@pytest.mark.parametrize("block", [1, 2, 3, 100])
def test_of_equal_cosines_the_first_is_taken(block):
    directions = torch.eye(4)[[3, 1, 1, 0, 1]] * torch.tensor([1.0, 2.0, 1.0, 1.0, 4.0])[:, None]
    assert nearest_directions(torch.eye(4)[[1, 0, 3]], directions, True, block)[0].tolist() == [1, 3, 0]
    assert nearest_directions(torch.eye(4)[[2]], directions, True, block)[0].tolist() == [0]


def test_a_sign_counts_only_where_it_is_said_so():
    directions = torch.tensor([[-1.0, 0.1], [0.6, 0.8]])
    row = torch.tensor([[2.0, 0.0]])
    signed, plain = nearest_directions(row, directions, True), nearest_directions(row, directions, False)
    assert (signed[0].item(), plain[0].item()) == (0, 1)
    assert signed[1].item() == pytest.approx(-1 / 1.01**0.5)
    assert plain[1].item() == pytest.approx(0.6)


def test_directions_of_length_zero_are_nearest_to_nothing_that_has_a_choice():
    directions = torch.stack([torch.zeros(3), torch.tensor([1.0, 1.0, 0.0])])
    assert nearest_directions(torch.tensor([[1.0, 0.0, 0.0]]), directions, True)[0].tolist() == [1]
    direction, cosine = nearest_directions(torch.eye(3), torch.zeros(2, 3), True)
    assert (direction.tolist(), cosine.tolist()) == ([0] * 3, [0.0] * 3)


def test_no_rows_have_no_nearest():
    assert nearest_directions(torch.zeros(0, 3), torch.eye(3), True)[0].shape == (0,)
