"""CKA, SVCCA and relative representations: the laws each must obey, known values, and bad input."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from itda_lightning import InputError, cka, relative_similarity, svcca


def draw(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def rotation(seed: int, d: int) -> Tensor:
    return torch.linalg.qr(draw(seed, d, d))[0]


def relative(x: Tensor, y: Tensor) -> float:
    return relative_similarity(x, y, torch.arange(7))


MEASURES = {"cka": cka, "svcca": svcca, "relative": relative}
seeds = st.integers(0, 10_000)


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
@settings(max_examples=25, deadline=None)
@given(seed=seeds, d=st.integers(1, 8), scale=st.floats(1e-4, 1e4))
def test_identity_gives_one_whatever_the_rotation_and_scale(measure, seed: int, d: int, scale: float) -> None:
    x = draw(seed, 60, d)
    assert measure(x, x) == pytest.approx(1.0, abs=1e-9)
    assert measure(x, scale * x @ rotation(seed + 1, d)) == pytest.approx(1.0, abs=1e-7)


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
@settings(max_examples=25, deadline=None)
@given(seed=seeds, d1=st.integers(1, 6), d2=st.integers(1, 6))
def test_symmetric_and_invariant_on_either_side(measure, seed: int, d1: int, d2: int) -> None:
    x, y = draw(seed, 60, d1), draw(seed + 1, 60, d2)
    value = measure(x, y)
    assert measure(y, x) == pytest.approx(value, abs=1e-9)
    assert measure(3.0 * x @ rotation(seed, d1), y) == pytest.approx(value, abs=1e-8)
    assert -1.0 - 1e-12 <= value <= 1.0 + 1e-12


@settings(max_examples=25, deadline=None)
@given(seed=seeds, d=st.integers(1, 6))
def test_svcca_of_all_variance_does_not_see_an_invertible_map_and_cka_does(seed: int, d: int) -> None:
    x = draw(seed, 60, d)
    stretched = x @ (rotation(seed, d) * torch.linspace(1, 30, d, dtype=x.dtype))
    assert svcca(x, stretched, variance=1.0) == pytest.approx(1.0, abs=1e-7)
    if d > 2:
        assert cka(x, stretched) < 0.95


def test_cka_is_the_hilbert_schmidt_definition() -> None:
    x, y = draw(0, 40, 5) + 3.0, draw(1, 40, 7) - 2.0
    centre = np.eye(40) - 1 / 40
    k, m = (centre @ (z.numpy() @ z.numpy().T) @ centre for z in (x, y))
    assert cka(x, y) == pytest.approx(np.sum(k * m) / np.sqrt(np.sum(k * k) * np.sum(m * m)), rel=1e-10)


def test_svcca_of_one_direction_each_is_the_absolute_correlation() -> None:
    x, noise = draw(0, 200, 1), draw(1, 200, 1)
    y = -x + 0.7 * noise
    assert svcca(x, y) == pytest.approx(abs(np.corrcoef(x[:, 0], y[:, 0])[0, 1]), rel=1e-10)


def test_svcca_keeps_the_fewest_directions_with_the_share_of_variance() -> None:
    # Variances 100 : 1 : 1, so 98% needs the first direction only, which the other side shares.
    x = torch.linalg.qr(draw(0, 300, 4))[0]
    x = (x - x.mean(0)) * torch.tensor([10.0, 1.0, 1.0, 0.0])
    x = x[:, :3]
    y = x[:, :1]
    assert svcca(x, y, variance=0.97) == pytest.approx(svcca(x[:, :1], y), abs=0.02)


def test_relative_similarity_from_the_definition() -> None:
    x, y, anchors = draw(0, 12, 4), draw(1, 12, 6), torch.tensor([3, 8, 1])

    def cosines(z: np.ndarray) -> np.ndarray:
        z = z / np.linalg.norm(z, axis=1, keepdims=True)
        return z @ z[anchors.numpy()].T

    r, s = cosines(x.numpy()), cosines(y.numpy())
    expected = np.mean(np.sum(r * s, 1) / np.linalg.norm(r, axis=1) / np.linalg.norm(s, axis=1))
    assert relative_similarity(x, y, anchors) == pytest.approx(expected, rel=1e-10)


def test_unrelated_representations_are_far_from_one() -> None:
    x, y = draw(0, 2000, 6), draw(1, 2000, 6)
    assert cka(x, y) < 0.02
    assert svcca(x, y) < 0.1


def test_large_activations_do_not_overflow() -> None:
    x = (draw(0, 50, 3) * 1e30).float()
    assert cka(x, x) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_bad_input_is_named(measure) -> None:
    x = draw(0, 30, 3)
    with pytest.raises(InputError, match="x has 30 rows and y has 29"):
        measure(x, x[:29])
    with pytest.raises(InputError, match="y has values that are not finite"):
        measure(x, torch.where(x > 2, torch.nan, x).index_fill(0, torch.tensor([0]), torch.inf))


@pytest.mark.parametrize("measure", [cka, svcca])
def test_without_variance_there_is_nothing_to_compare(measure) -> None:
    x = draw(0, 30, 3)
    with pytest.raises(InputError, match="y is the same for every token"):
        measure(x, torch.full((30, 2), 5.0, dtype=x.dtype))
    with pytest.raises(InputError, match="1 tokens are too few: give at least 2"):
        measure(x[:1], x[:1])


def test_svcca_refuses_what_would_always_give_one() -> None:
    with pytest.raises(InputError, match="6 tokens are too few for 10 directions"):
        svcca(draw(0, 6, 9), draw(1, 6, 9), variance=1.0)
    with pytest.raises(InputError, match=r"variance must be a share in \(0, 1\], got 1.5"):
        svcca(draw(0, 60, 3), draw(1, 60, 3), variance=1.5)


@pytest.mark.parametrize("anchors", [[], [-1], [30]])
def test_anchors_must_be_tokens(anchors: list[int]) -> None:
    x = draw(0, 30, 3)
    with pytest.raises(InputError, match="anchors must be indices of the 30 tokens"):
        relative_similarity(x, x, torch.tensor(anchors, dtype=torch.int64))


def test_an_all_zero_row_has_no_direction() -> None:
    x = draw(0, 30, 3).index_fill(0, torch.tensor([4]), 0.0)
    with pytest.raises(InputError, match="y has an all-zero row"):
        relative_similarity(draw(0, 30, 3), x, torch.arange(3))
