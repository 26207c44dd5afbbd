"""Worst-first growth ends with about the dictionary of its definition, which encodes the batch again for every atom."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from itda_lightning.growth import (
    DUPLICATE_COSINE,
    GROWTH_POLICIES,
    Growth,
    GrowthRule,
    grow_frozen_batch,
    grow_sequential,
    grow_worst_first,
)
from itda_lightning.growth import worst_first as module
from itda_lightning.pursuit import PreparedAtoms, SparseCode, pursue
from tests.growth.naive import ROUNDING, mixtures, residual_energy
from tests.pursuit.forms import DTYPES, forms, with_room

USUAL = "gram, single"
PURSUITS = [("mp", False), ("mp", True), ("omp", False), ("omp", True)]


def grow(
    x: Tensor,
    capacity: int,
    rule: GrowthRule,
    form: str | None = None,
    start: Tensor | None = None,
    encode: Callable[..., SparseCode] = pursue,
) -> Growth:
    form = form or (USUAL if x.dtype == torch.float32 else "torch gram")
    return grow_worst_first(x, with_room(x[:0] if start is None else start, capacity, form), rule, encode)


def encode(x: Tensor, atoms: Tensor, rule: GrowthRule) -> Tensor:
    """Return the share of energy that each activation leaves unexplained, in double precision and plain torch."""
    x, atoms = x.double(), atoms.double()
    code = pursue(rule.pursuit, x, PreparedAtoms(atoms, len(atoms)), rule.k, rule.nonnegative, rule.threshold)
    return code.residual_energy / x.square().sum(1)


def repeats(x: Tensor, atoms: Tensor, rule: GrowthRule) -> Tensor:
    cosine = torch.nn.functional.normalize(x.double(), dim=1) @ atoms.double().T
    return ((cosine if rule.nonnegative else cosine.abs()) >= DUPLICATE_COSINE).any(1)


def exactly_worst_first(x: Tensor, rule: GrowthRule) -> list[int]:
    """The definition: append the worst explained of all that fail, encode everything again, until none fails."""
    unit, energy = torch.nn.functional.normalize(x, dim=1), x.square().sum(1)
    atoms = with_room(unit[:0], len(x), USUAL if x.dtype == torch.float32 else "torch gram")
    accepted: list[int] = []
    repeated = torch.zeros(len(x), dtype=torch.bool)
    while True:
        code = pursue(rule.pursuit, x, atoms, rule.k, rule.nonnegative, rule.threshold)
        share = (code.residual_energy / energy).masked_fill(repeated, 0.0)
        worst = int(share.argmax())
        if float(share[worst]) <= rule.threshold:
            return accepted
        accepted.append(worst)
        atoms.place(atoms.n, unit[worst][None])
        repeated |= repeats(x, unit[worst][None], rule)


def features(n: int, d: int, seed: int, used: int = 4) -> Tensor:
    """Sparse mixtures of 3 d hidden directions, some of them common and most rare (Zipf's law), with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(3 * d, d, generator=generator), dim=1)
    frequency = 1 / torch.arange(1, 3 * d + 1)
    present = torch.rand(n, 3 * d, generator=generator) < used * frequency / frequency.sum()
    x = (present * (0.3 + torch.rand(n, 3 * d, generator=generator))) @ directions
    return x + 0.02 * torch.randn(n, d, generator=generator)


class Counted:
    """Counts the activations that are encoded."""

    def __init__(self) -> None:
        self.encoded = 0

    def __call__(self, name: Any, x: Tensor, *rest: Any) -> SparseCode:
        self.encoded += len(x)
        return pursue(name, x, *rest)


@pytest.mark.parametrize(("pursuit", "nonnegative"), [("mp", True), ("omp", False)])
@pytest.mark.long
def test_about_the_size_of_exact_growth_at_a_few_encodes(pursuit, nonnegative):
    # Greedy choices make the size of one small dictionary a matter of chance, a few percent up or down.
    counted, sizes, exact, others = Counted(), [], [], []
    rule = GrowthRule(4, pursuit, nonnegative, 0.2)
    for seed in range(8):
        x = features(250, 32, seed)
        sizes.append(len(grow(x, 250, rule, encode=counted).accepted))
        exact.append(len(exactly_worst_first(x, rule)))
        others.append(len(grow_sequential(x, with_room(x[:0], 250, USUAL), rule).accepted))
    assert 0.97 * sum(exact) <= sum(sizes) <= 1.02 * sum(exact)
    assert all(abs(ours - theirs) <= 0.1 * theirs for ours, theirs in zip(sizes, exact, strict=True))
    assert sum(sizes) < 0.97 * sum(others)
    assert 0 < counted.encoded <= 2 * 8 * 250


@pytest.mark.long
def test_a_wide_problem():
    counted = Counted()
    several = [features(600, 128, seed, used=6) for seed in range(3)]
    rule = GrowthRule(16, "mp", False, 0.2)
    exact = sum(len(exactly_worst_first(x, rule)) for x in several)
    assert sum(len(grow(x, 600, rule, encode=counted).accepted) for x in several) == pytest.approx(exact, rel=0.02)
    assert 0 < counted.encoded <= 3 * 3 * 600


def test_independent_activations_are_appended_as_in_exact_growth():
    x = torch.eye(12, dtype=torch.float64) * torch.linspace(1, 3, 12, dtype=torch.float64)[:, None]
    # The last is explained by the third, once that is there.
    x = torch.cat([x, 2 * x[2:3] + 0.1 * x[3:4]])
    rule = GrowthRule(1, "mp", False, 0.3)
    assert grow(x, 20, rule).accepted.tolist() == exactly_worst_first(x, rule) == list(range(12))


def test_the_worst_explained_comes_first():
    start = torch.eye(6, dtype=torch.float64)[:1]
    angles = torch.tensor([0.7, 1.2, 0.1, 1.5, 1.0], dtype=torch.float64)
    x = angles.cos()[:, None] * start + angles.sin()[:, None] * torch.eye(6, dtype=torch.float64)[1:6]
    x *= torch.tensor([9, 1, 5, 1e-3, 2], dtype=torch.float64)[:, None]
    assert grow(x, 6, GrowthRule(1, "mp", False, 0.3), start=start).accepted.tolist() == [3, 1, 4, 0]


def test_of_failures_that_one_atom_explains_one_is_appended():
    x = torch.tensor([[1.0, 0, 0], [0.95, 0.2, 0], [1.0, 0, 0.2], [0, 0, 1]])
    assert grow(x, 4, GrowthRule(1, "mp", False, 0.2)).accepted.tolist() == [0, 3]
    assert len(grow_frozen_batch(x, with_room(x[:0], 4, USUAL), GrowthRule(1, "mp", False, 0.2)).accepted) == 4


@forms
@given(
    pursuit=st.sampled_from(PURSUITS),
    batch=st.integers(0, 90),
    d=st.integers(1, 12),
    k=st.integers(1, 6),
    threshold=st.sampled_from([1e-4, 0.02, 0.1, 0.3, 0.6, 0.95]),
    capacity=st.integers(1, 100),
    start=st.integers(0, 20),
    common=st.sampled_from([0.0, 1.0, 10.0]),
    exponent=st.sampled_from([1.0, 0.75, 0.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_law_of_any_problem(form, pursuit, batch, d, k, threshold, capacity, start, common, exponent, seed):
    dtype = DTYPES[form]
    x = mixtures(batch + start, d, seed, dtype, common)
    atoms, x = torch.nn.functional.normalize(x[:start], dim=1)[:capacity], x[start:]
    typical = float(x.square().sum(1).mean()) if batch else 1.0
    name, nonnegative = pursuit
    rule = GrowthRule(k, name, nonnegative, threshold, exponent, typical)
    counted, prepared = Counted(), with_room(atoms, capacity, form)
    grown = grow_worst_first(x, prepared, rule, counted)
    assert counted.encoded <= 3 * batch
    assert prepared.n == len(atoms)
    accepted = grown.accepted.tolist()
    assert len(set(accepted)) == len(accepted) <= capacity - len(atoms)
    assert torch.equal(grown.atoms, torch.nn.functional.normalize(x[accepted], dim=1))
    # Each passed, or failed and became an atom, or repeats one, or found the dictionary full.
    energy = x.double().square().sum(1)
    reference = energy**exponent * typical ** (1 - exponent)
    share, rounding = grown.residual_energy.double() / reference, ROUNDING[dtype] * energy / reference
    failed = share > threshold + rounding
    after = torch.cat([atoms, grown.atoms])
    became = torch.zeros(batch, dtype=torch.bool)
    became[accepted] = True
    assert bool((share[became] > (threshold - rounding)[became]).all())
    assert len(after) == capacity or not bool((failed & ~became & ~repeats(x, after * (1 + 1e-6), rule)).any())
    if len(grown.atoms) > 1:
        cosine = grown.atoms @ grown.atoms.T
        assert float((cosine if rule.nonnegative else cosine.abs()).fill_diagonal_(0).max()) < DUPLICATE_COSINE + 1e-6


@forms
def test_residual_energies_are_those_of_encodes_on_the_way(form):
    x, rule = features(80, 12, seed=3).to(DTYPES[form]), GrowthRule(3, "omp", False, 0.2)
    grown = grow(x, 80, rule, form)
    prefixes = [encode(x, grown.atoms[:n], rule) for n in range(len(grown.atoms) + 1)]
    share = grown.residual_energy.double() / x.double().square().sum(1)
    rounding = 1e-9 if x.dtype == torch.float64 else 1e-6
    assert bool(torch.isclose(torch.stack(prefixes), share, atol=rounding).any(0).all())
    row = int(grown.accepted[0])
    assert float(share[row]) == pytest.approx(1)  # what it left unexplained when it became an atom


def test_hardly_any_that_passed_fails_under_the_final_dictionary():
    x, rule = features(1000, 48, seed=1), GrowthRule(4, "mp", False, 0.2)
    grown = grow(x, 1000, rule)
    assert 0 <= float((encode(x, grown.atoms, rule) > 0.2 + 1e-5).double().mean()) < 0.03


def test_one_activation_at_a_time_is_sequential_growth():
    x, rule = mixtures(120, 16, seed=5), GrowthRule(3, "omp", False, 0.2)
    prepared = with_room(x[:0], 120, "torch gram")
    for row in x:
        prepared.place(prepared.n, grow_worst_first(row[None], prepared, rule).atoms)
    sequential = grow_sequential(x, with_room(x[:0], 120, "torch gram"), rule)
    torch.testing.assert_close(prepared.atoms, sequential.atoms)


def test_the_capacity_keeps_the_worst():
    x, rule = features(300, 24, seed=4), GrowthRule(4, "mp", False, 0.1)
    everything = grow(x, 300, rule)
    some = grow(x, 20, rule)
    assert len(everything.accepted) > 50
    assert some.accepted.tolist() == everything.accepted.tolist()[:20]
    assert some.atoms.shape == (20, 24)


def test_a_full_dictionary_only_encodes():
    x, rule = mixtures(30, 6, seed=3), GrowthRule(2, "mp", False, 1e-6)
    counted = Counted()
    start = torch.nn.functional.normalize(x[:4], dim=1)
    grown = grow(x, 4, rule, start=start, encode=counted)
    assert grown.accepted.tolist() == []
    assert grown.atoms.shape == (0, 6)
    assert counted.encoded == 30
    torch.testing.assert_close(grown.residual_energy / x.square().sum(1), encode(x, start, rule))


@pytest.mark.parametrize("nonnegative", [False, True])
def test_repeats_are_left_out_where_the_threshold_would_take_them(nonnegative):
    first, second, third = torch.eye(4, dtype=torch.float64)[:3]
    near, far = first + 0.03 * third, first + 0.06 * third  # cosines of .99955 and .9982
    x = torch.stack([3 * near, second, 5 * first, -first, near, far])
    grown = grow(x, 10, GrowthRule(1, "mp", nonnegative, 1e-5), start=first[None])
    assert sorted(grown.accepted.tolist()) == ([1, 3, 5] if nonnegative else [1, 5])
    twice = grow(torch.cat([x, x]), 10, GrowthRule(1, "mp", nonnegative, 0.2))
    assert len(twice.accepted) == (3 if nonnegative else 2)


def test_a_batch_that_would_cost_too_much_is_ended_by_appending_all(monkeypatch):
    monkeypatch.setattr(module, "MOST_ENCODES", 1)
    counted = Counted()
    x, rule = features(200, 24, seed=5), GrowthRule(4, "mp", False, 0.2)
    start = torch.nn.functional.normalize(x[:20], dim=1)
    grown = grow(x[20:], 200, rule, start=start, encode=counted)
    frozen = grow_frozen_batch(x[20:], with_room(start, 200, USUAL), rule)
    assert sorted(grown.accepted.tolist()) == frozen.accepted.tolist()
    assert counted.encoded == 180
    # Of an empty dictionary all fail and none is encoded at first, which leaves as many encodes as there may be.
    assert len(grow(x, 200, rule, encode=counted).accepted) < 0.8 * len(frozen.accepted)
    assert 180 < counted.encoded <= 380


def test_activations_without_energy_are_never_accepted():
    x = torch.zeros(5, 4)
    x[2, 1] = 3.0
    grown = grow(x, 5, GrowthRule(2, "omp", False, 0.5))
    assert grown.accepted.tolist() == [2]
    assert grown.residual_energy.tolist() == [0, 0, 9, 0, 0]


def test_tiny_batches():
    for n in (0, 1):
        grown = grow(torch.ones(n, 3), 4, GrowthRule(2, "mp", False, 0.5))
        assert grown.accepted.tolist() == list(range(n))
        assert grown.residual_energy.shape == (n,)


def test_the_same_again_and_the_activations_untouched():
    x, rule = features(300, 24, seed=6), GrowthRule(4, "mp", False, 0.2)
    before = x.clone()
    prepared = with_room(torch.nn.functional.normalize(x[:10], dim=1), 300, USUAL)
    first, second = grow_worst_first(x, prepared, rule), grow_worst_first(x, prepared, rule)
    assert all(torch.equal(ours, again) for ours, again in zip(first, second, strict=True))
    assert torch.equal(x, before)


def test_atoms_stored_in_half_precision():
    x, rule = features(300, 24, seed=7), GrowthRule(4, "mp", False, 0.2)
    grown = grow_worst_first(x, PreparedAtoms(torch.zeros(300, 24, dtype=torch.bfloat16), 0), rule)
    assert 40 < len(grown.accepted) < 200
    assert grown.atoms.dtype == torch.float32
    share = grown.residual_energy / x.square().sum(1)
    share[grown.accepted] = 0.0
    assert float(share.max()) <= 0.2


@forms
@pytest.mark.parametrize("exponent", [1.0, 0.75, 0.0])
def test_residual_energies_agree_with_the_oracle(form, exponent):
    x = (features(60, 12, seed=8) * torch.logspace(-1, 1, 60)[:, None]).to(DTYPES[form])
    rule = GrowthRule(3, "mp", True, 0.2, exponent, float(x.square().sum(1).median()))
    start = torch.nn.functional.normalize(x[:60:2], dim=1)
    grown = grow(x[1::2], 30, rule, form, start)  # full: one encode
    dictionary = start.double().numpy()
    expected = [residual_energy(row, row.double().numpy(), dictionary, rule) for row in x[1::2]]
    energy = x[1::2].double().square().sum(1)
    shares = grown.residual_energy.double() / energy, torch.tensor(expected, dtype=torch.float64) / energy
    torch.testing.assert_close(*shares, rtol=0, atol=ROUNDING[x.dtype])


def test_it_is_one_of_the_policies():
    assert GROWTH_POLICIES["worst_first"] is grow_worst_first


@pytest.mark.parametrize("pursuit", ["mp", "omp"])
@given(seed=st.integers(0, 10**6))
@settings(max_examples=settings.default.max_examples // 3 or 1)
def test_the_order_of_a_batch_does_not_matter_where_norms_differ(pursuit, seed):
    """With an exponent below 1 the worst explained of an empty dictionary is the largest, not any."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(250, 24, generator=generator) * torch.rand(250, 1, generator=generator).add(0.5)
    rule = GrowthRule(5, pursuit, False, 0.3, 0.85, 24.0)
    order = torch.randperm(250, generator=generator)
    one, other = grow(x, 250, rule).accepted, order[grow(x[order], 250, rule).accepted]
    assert len(one) > 30
    assert set(one.tolist()) == set(other.tolist())
