"""The laws that measures of representations obey, each those that it claims, and bad input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from itda_lightning import InputError
from itda_lightning.measures import cka, mutual_neighbours, procrustes, pwcca, regression_r2, svcca
from tests.measures.representations import (
    BLIND_TO_INVERTIBLE_MAPS,
    CENTRED,
    MEASURES,
    NEGATIVE,
    OF_MOMENTS,
    ROUNDING,
    STREAMED,
    SYMMETRIC,
    debiased_cka,
    draw,
    related,
    rotation,
    streamed,
    whole_svcca,
)

seeds = st.integers(0, 10_000)
every = pytest.mark.parametrize("name", MEASURES)
third_as_many = settings(max_examples=settings.default.max_examples // 3 or 1)  # laws that each measure obeys


@every
@given(seed=seeds, d=st.integers(2, 8), scale=st.floats(1e-4, 1e4))
@third_as_many
def test_identity_gives_one_whatever_the_rotation_and_scale(name: str, seed: int, d: int, scale: float) -> None:
    x = draw(seed, 60, d)
    assert MEASURES[name](x, x) == pytest.approx(1.0, abs=ROUNDING.get(name, 1e-9))
    assert MEASURES[name](x, scale * x @ rotation(seed + 1, d)) == pytest.approx(1.0, abs=1e-7)


@every
@given(seed=seeds, d1=st.integers(2, 6), d2=st.integers(2, 6))
@third_as_many
def test_it_stays_in_its_range_and_does_not_see_rotation_and_scale(name: str, seed: int, d1: int, d2: int) -> None:
    x, y = related(seed, 60, d1, d2)
    value = MEASURES[name](x, y)
    assert (-1.0 if name in NEGATIVE else 0.0) <= value <= 1.0 + 1e-12
    assert MEASURES[name](x, 3.0 * y @ rotation(seed, d2)) == pytest.approx(value, abs=1e-8)
    if name != "pwcca":
        assert MEASURES[name](0.2 * x @ rotation(seed, d1), y) == pytest.approx(value, abs=1e-8)
    assert pwcca(0.2 * x.flip(1), y) == pytest.approx(pwcca(x, y), abs=1e-8)


@given(seed=seeds, d1=st.integers(2, 6), d2=st.integers(2, 6))
def test_symmetric_measures_are_symmetric(seed: int, d1: int, d2: int) -> None:
    x, y = related(seed, 60, d1, d2)
    for name in SYMMETRIC:
        assert MEASURES[name](y, x) == pytest.approx(MEASURES[name](x, y), abs=1e-9), name


def test_prediction_and_weights_have_a_direction() -> None:
    x, y = related(0, 200, 6, 2)
    assert regression_r2(y, x) < regression_r2(x, y) - 0.2
    assert pwcca(x, y) != pytest.approx(pwcca(y, x), abs=1e-3)


@every
@given(seed=seeds)
@third_as_many
def test_the_order_of_tokens_does_not_matter(name: str, seed: int) -> None:
    x, y = related(seed, 60, 4, 5)
    # The first seven are the anchors of relative representations, which have to stay the same tokens.
    order = torch.cat([torch.arange(7).flip(0), torch.from_numpy(draw(seed, 53).numpy().argsort()) + 7])
    assert MEASURES[name](x[order], y[order]) == pytest.approx(MEASURES[name](x, y), abs=1e-9)


@pytest.mark.parametrize("name", CENTRED)
@given(seed=seeds, offset=st.floats(-100, 100))
def test_a_common_offset_of_all_tokens_does_not_matter_to_what_is_centred(name: str, seed: int, offset: float) -> None:
    x, y = related(seed, 60, 4, 5)
    assert MEASURES[name](x + offset, y - 3 * offset) == pytest.approx(MEASURES[name](x, y), abs=1e-9)


@pytest.mark.parametrize("name", BLIND_TO_INVERTIBLE_MAPS)
@given(seed=seeds, d=st.integers(2, 6))
def test_measures_that_claim_so_do_not_see_an_invertible_map(name: str, seed: int, d: int) -> None:
    x, y = related(seed, 60, d, d)
    stretched = x @ rotation(seed + 5, d) @ (rotation(seed, d) * torch.linspace(1, 30, d, dtype=x.dtype)) + 2.0
    assert MEASURES[name](x, stretched) == pytest.approx(1.0, abs=1e-8)
    if name == "pwcca":
        assert pwcca(y, stretched) == pytest.approx(pwcca(y, x), abs=1e-8)
    else:
        assert MEASURES[name](stretched, y) == pytest.approx(MEASURES[name](x, y), abs=1e-8)


@pytest.mark.parametrize("measure", [cka, debiased_cka, procrustes])
def test_others_see_an_invertible_map(measure) -> None:
    x = draw(0, 400, 6)
    assert measure(x, x * torch.tensor([1.0, 1, 1, 1, 1, 30])) < 0.95


@pytest.mark.parametrize("name", STREAMED)
@given(seed=seeds, sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6), d1=st.integers(2, 6))
@third_as_many
def test_batches_give_the_same_as_all_tokens_at_once(name: str, seed: int, sizes: list[int], d1: int) -> None:
    x, y = related(seed, 50 + sum(sizes), d1, 4)
    x, y = x + 100.0, y - 30.0
    # Weights of nearly equal canonical correlations may turn into each other, at little change of their mean.
    assert streamed(name, x, y, [50, *sizes]) == pytest.approx(MEASURES[name](x, y), abs=1e-11)


def test_unrelated_representations_are_far_from_one() -> None:
    x, y = draw(0, 2000, 6), draw(1, 2000, 6)
    for name in OF_MOMENTS:
        assert abs(MEASURES[name](x, y)) < 0.1, name
    assert mutual_neighbours(x[:600], y[:600], k=30) == pytest.approx(30 / 599, abs=0.01)


def test_with_more_dimensions_than_tokens_only_debiased_cka_tells_unrelated_ones() -> None:
    x, y = draw(0, 50, 400), draw(1, 50, 400)
    assert cka(x, y) > 0.7
    assert procrustes(x, y) > 0.7
    assert abs(debiased_cka(x, y)) < 0.1
    assert debiased_cka(x, x) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (whole_svcca, "50 tokens are too few for 98 directions: correlations would be 1 for any data"),
        (pwcca, "50 tokens are too few for 98 directions"),
        (regression_r2, r"50 tokens are too few for a regression on 49 independent .* R\^2 would be 1 for any y"),
    ],
)
def test_what_would_always_give_one_is_refused(measure, message: str) -> None:
    with pytest.raises(InputError, match=message):
        measure(draw(0, 50, 400), draw(1, 50, 400))


@pytest.mark.parametrize("name", BLIND_TO_INVERTIBLE_MAPS)
def test_singular_representations_are_as_good_as_their_independent_dimensions(name: str) -> None:
    x, y = related(0, 90, 5, 4)
    constant = torch.full((90, 3), 0.1, dtype=x.dtype) * torch.tensor([1.0, 1e4, 0.0])
    more = torch.cat([x, x @ draw(7, 5, 6), constant], dim=1)
    if name == "pwcca":  # whose weights are those of the dimensions of x, repeated or not
        assert pwcca(y, more) == pytest.approx(pwcca(y, x), abs=1e-9)
        assert pwcca(torch.cat([y, constant], dim=1), x) == pytest.approx(pwcca(y, x), abs=1e-9)
    else:
        assert MEASURES[name](more, y) == pytest.approx(MEASURES[name](x, y), abs=1e-9)


@pytest.mark.parametrize("name", OF_MOMENTS)
def test_a_mean_of_ten_thousand_costs_no_digits(name: str) -> None:
    x, y = (z.float().double() for z in related(3, 400, 6, 5))
    moved = (x * 2**10).round() / 2**10  # so that x + 10,000 is exact
    assert MEASURES[name](moved + 1e4, y) == pytest.approx(MEASURES[name](moved, y), rel=1e-11)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_is_summed_in_float64(name: str, dtype: torch.dtype) -> None:
    x, y = (z.to(dtype) for z in related(4, 300, 6, 5))
    assert MEASURES[name](x, y) == MEASURES[name](x.double(), y.double())


@pytest.mark.parametrize("name", OF_MOMENTS)
def test_sizes_at_the_ends_of_float32_neither_overflow_nor_vanish(name: str) -> None:
    x, y = related(5, 60, 3, 4)
    for scale in (1e30, 1e-30):
        assert MEASURES[name]((x * scale).float(), y.float()) == pytest.approx(
            MEASURES[name](x.float(), y.float()), abs=1e-6
        )


@pytest.mark.parametrize("name", OF_MOMENTS)
def test_a_token_of_huge_norm_leaves_the_laws_in_force(name: str) -> None:
    x, y = related(6, 200, 4, 4)
    x[3] *= 1e5
    assert MEASURES[name](x, x @ rotation(1, 4)) == pytest.approx(1.0, abs=1e-6)
    if name in SYMMETRIC:
        assert MEASURES[name](x, y) == pytest.approx(MEASURES[name](y, x), abs=1e-6)


@every
def test_bad_input_is_named(name: str) -> None:
    x, measure = draw(0, 30, 3), MEASURES[name]
    with pytest.raises(InputError, match="x has 30 rows and y has 29: row i of all must be the same token"):
        measure(x, x[:29])
    for bad in (torch.nan, torch.inf, -torch.inf):
        with pytest.raises(InputError, match="y has values that are not finite: leave those tokens out"):
            measure(x, x.index_fill(0, torch.tensor([3]), bad))
    with pytest.raises(InputError, match=r"x has a value of size 1e\+80, whose powers overflow: scale it below 1e\+70"):
        measure(x.index_fill(0, torch.tensor([3]), 1e80), x)
    with pytest.raises(InputError, match=r"x must have shape \(tokens, dimensions\), got \(30, 0\)"):
        measure(x[:, :0], x)


@pytest.mark.parametrize("name", OF_MOMENTS)
@pytest.mark.parametrize("value", [0.0, 5.0, 0.1])
def test_without_variance_there_is_nothing_to_compare(name: str, value: float) -> None:
    x, same = draw(0, 30, 3), torch.full((30, 2), value, dtype=torch.float64)
    with pytest.raises(InputError, match="y is the same for every token: it has no variance to compare"):
        OF_MOMENTS[name](x, same)
    with pytest.raises(InputError, match="x is the same for every token"):
        OF_MOMENTS[name](same, x)
    with pytest.raises(InputError, match="1 tokens are too few: give at least 2"):
        OF_MOMENTS[name](x[:1], x[:1])


def test_debiased_cka_needs_pairs_of_tokens_that_differ() -> None:
    with pytest.raises(InputError, match="3 tokens are too few for debiased CKA: give at least 4"):
        debiased_cka(draw(0, 3, 2), draw(1, 3, 2))
    with pytest.raises(InputError, match="debiased HSIC of y with itself is 0 to rounding"):
        debiased_cka(draw(0, 6, 2), torch.eye(6, dtype=torch.float64))


@pytest.mark.parametrize("variance", [0.0, -0.1, 1.5, float("nan")])
def test_svcca_keeps_a_share(variance: float) -> None:
    with pytest.raises(InputError, match=r"variance must be a share in \(0, 1\], got"):
        svcca(draw(0, 60, 3), draw(1, 60, 3), variance=variance)


@pytest.mark.parametrize("name", ["relative", "neighbours"])
def test_an_all_zero_row_has_no_direction(name: str) -> None:
    x: Tensor = draw(0, 30, 3)
    with pytest.raises(InputError, match=r"y(, among its anchors,)? has an all-zero row, which has no direction"):
        MEASURES[name](x, x.index_fill(0, torch.tensor([4]), 0.0))
