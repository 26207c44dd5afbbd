"""Sums over batches against sums over all tokens at once, combined, and of many representations together."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itda_lightning import InputError
from itda_lightning.measures import CrossMoments, Moments, cka, cka_of
from itda_lightning.measures.aligned import BLOCK_ROWS
from tests.measures.representations import draw, related


def of_all_at_once(x: torch.Tensor, y: torch.Tensor) -> CrossMoments:
    x, y = x - x.mean(0), y - y.mean(0)
    p, q = x.square().sum(1), y.square().sum(1)
    return CrossMoments(len(x), x.T @ x, y.T @ y, x.T @ y, float(p @ p), float(q @ q), float(p @ q))


def assert_same(actual: CrossMoments, expected: CrossMoments, rel: float = 1e-12) -> None:
    assert actual.n == expected.n
    for name, value, other in zip(CrossMoments._fields[1:], actual[1:], expected[1:], strict=True):
        value, other = torch.as_tensor(value), torch.as_tensor(other)
        assert value.dtype == torch.float64 or value.ndim == 0
        torch.testing.assert_close(value, other, rtol=rel, atol=rel * float(other.abs().max()), msg=name)


def add_in(moments: Moments, sizes: list[int], *representations: torch.Tensor) -> Moments:
    for batch in zip(*(x.split(sizes) for x in representations), strict=True):
        moments.update(*batch)
    return moments


@given(
    seed=st.integers(0, 10_000),
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=8),
    offset=st.sampled_from([0.0, 1.0, 1e4]),
)
def test_they_are_the_sums_over_all_tokens(seed: int, sizes: list[int], offset: float) -> None:
    x, y = related(seed, 2 + sum(sizes), 3, 4)
    x[0] *= 1e3
    expected = of_all_at_once(x, y)
    moments = add_in(Moments(), [2, *sizes], x + offset, y - 2 * offset)
    # Adding the offset itself rounds the tokens.
    assert_same(moments.compute(), expected, 1e-12 if offset < 1e3 else 1e-9)
    assert_same(moments.compute(1, 0), expected.swapped, 1e-12 if offset < 1e3 else 1e-9)


def test_batches_larger_than_a_block_are_cut() -> None:
    x, y = related(0, 2 * BLOCK_ROWS + 11, 3, 2)
    assert_same(CrossMoments.of(x, y), of_all_at_once(x, y))


def test_combined_sums_are_those_of_all_tokens_and_the_parts_stay() -> None:
    x, y = related(1, 90, 3, 4)
    x[40:] += 50.0
    first, second = add_in(Moments(), [40], x[:40], y[:40]), add_in(Moments(), [50], x[40:], y[40:])
    before = second.compute()._replace(xx=second.compute().xx.clone())
    combined = Moments.combined([first, Moments(), second], [1, 1, 1])
    assert_same(combined.compute(), of_all_at_once(x, y))
    assert_same(second.compute(), before, 0.0)
    assert_same(first.compute(), of_all_at_once(x[:40], y[:40]))


def test_a_part_combined_twice_counts_twice() -> None:
    x, y = related(2, 30, 3, 4)
    part = add_in(Moments(), [30], x, y)
    for twice in (Moments.combined([part], [2]), Moments.combined([part, part], [1, 1])):
        assert_same(twice.compute(), of_all_at_once(x.repeat(2, 1), y.repeat(2, 1)))


def test_parts_are_combined_each_its_number_of_times() -> None:
    x, y = related(3, 60, 3, 4)
    x[20:40] -= 30.0
    parts = [add_in(Moments(), [20], x[rows], y[rows]) for rows in (slice(0, 20), slice(20, 40), slice(40, 60))]
    combined = Moments.combined([*parts, Moments()], [2, 0, 1, 5])
    drawn = torch.tensor([*range(20), *range(20), *range(40, 60)])
    assert combined.n == 60
    assert_same(combined.compute(), of_all_at_once(x[drawn], y[drawn]))
    assert_same(parts[0].compute(), of_all_at_once(x[:20], y[:20]))
    assert Moments.combined(parts, [0, 0, 0]).n == 0


def test_many_representations_at_once_are_each_pair() -> None:
    many = [draw(seed, 50, 2 + seed) for seed in range(4)]
    moments = add_in(Moments(), [20, 30], *many)
    for i in range(4):
        for j in range(4):
            assert cka_of(moments.compute(i, j)) == pytest.approx(cka(many[i], many[j]), rel=1e-12)


def test_only_requested_pairs_are_summed() -> None:
    many = [draw(seed, 50, 3) for seed in range(3)]
    moments = add_in(Moments(pairs=[(2, 0)]), [50], *many)
    assert cka_of(moments.compute(2, 0)) == pytest.approx(cka(many[2], many[0]), rel=1e-12)
    with pytest.raises(InputError, match="representations 0 and 1 are not among the pairs that were summed"):
        moments.compute(0, 1)


def test_what_does_not_fit_is_refused_and_changes_nothing() -> None:
    x, y = related(3, 20, 3, 4)
    moments = add_in(Moments(), [20], x, y)
    with pytest.raises(InputError, match="y has 5 dimensions, earlier batches had 4"):
        moments.update(x, draw(0, 20, 5))
    with pytest.raises(InputError, match="got 3 representations to compare: give 2, as before"):
        moments.update(x, y, y)
    with pytest.raises(InputError, match="got 1 representations to compare: give at least 2"):
        Moments().update(x)
    with pytest.raises(InputError, match=r"y must have shape \(tokens, dimensions\), got \(20, 2, 2\)"):
        moments.update(x, y.reshape(20, 2, 2))
    late = y.repeat(400, 1)
    late[-1, 0] = torch.nan
    with pytest.raises(InputError, match="y has values that are not finite"):
        moments.update(x.repeat(400, 1), late)
    with pytest.raises(
        InputError, match=r"of widths \[3, 3\] and pairs None cannot be added to those of widths \[3, 4\]"
    ):
        Moments.combined([moments, add_in(Moments(), [20], x, x)], [1, 1])
    with pytest.raises(InputError, match=r"and pairs \{\(0, 1\)\} cannot be added"):
        Moments.combined([moments, add_in(Moments([(0, 1)]), [20], x, y)], [1, 1])
    assert_same(moments.compute(), of_all_at_once(x, y))
    with pytest.raises(InputError, match="0 tokens are too few: give at least 2"):
        Moments().compute()
    with pytest.raises(InputError, match="representation 0 has 20 rows and representation 2 has 19"):
        Moments().update(x, y, x[:19])


def test_a_dimension_that_is_the_same_for_every_token_is_exactly_zero() -> None:
    x, y = related(4, 50, 3, 4)
    x[:, 1] = 1e4 / 3
    moments = CrossMoments.of(x, y)
    assert not moments.xx[1].any()
    assert not moments.xx[:, 1].any()
    assert not moments.xy[1].any()
