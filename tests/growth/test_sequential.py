"""Sequential growth makes the very decisions that a loop over single activations makes."""

from functools import cache
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from itda_lightning.growth import Growth, GrowthRule, grow_sequential
from itda_lightning.growth import sequential as module
from itda_lightning.growth.across_processes import Step, grow_among_ranks
from itda_lightning.pursuit import PursuitName, compiled, pursue
from itda_lightning.pursuit.gram import UNIT
from tests.growth.naive import ROUNDING, NaiveGrowth, grow_one_by_one, mixtures
from tests.pursuit.forms import COMPILED, DTYPES, FORMS, forms, with_room

USUAL = "torch gram"
PURSUITS = [("mp", False), ("mp", True), ("omp", False), ("omp", True)]


def grow(x: Tensor, capacity: int, rule: GrowthRule, form: str, start: Tensor | None = None) -> Growth:
    return grow_sequential(x, with_room(x[:0] if start is None else start, capacity, form), rule)


def assert_naive(x: Tensor, capacity: int, rule: GrowthRule, form: str, start: Tensor | None = None) -> Growth:
    grown = grow(x, capacity, rule, form, start)
    naive = grow_one_by_one(x, x[:0] if start is None else start, capacity, rule, grown.accepted.tolist())
    assert_grown_as(naive, grown, x)
    return grown


def assert_grown_as(naive: NaiveGrowth, grown: Growth, x: Tensor) -> None:
    assert grown.accepted.tolist() == naive.accepted
    assert torch.equal(grown.atoms, torch.nn.functional.normalize(x[grown.accepted], dim=1))
    energy = x.double().square().sum(1)
    expected = torch.from_numpy(naive.residual_energy)
    torch.testing.assert_close(
        grown.residual_energy.double() / energy, expected / energy, rtol=0, atol=ROUNDING[x.dtype]
    )


@pytest.mark.parametrize(
    ("pursuit", "nonnegative", "dtype"),
    [
        ("mp", False, torch.float32),
        ("mp", True, torch.float64),
        ("omp", True, torch.float32),
        ("omp", False, torch.float64),
    ],
)
def test_several_blocks(pursuit, nonnegative, dtype):
    x, rule = mixtures(250, 16, seed=1, dtype=dtype), GrowthRule(4, pursuit, nonnegative, 0.15)
    by_form = {form: grow(x, 250, rule, form) for form in FORMS if DTYPES[form] == dtype}
    naively: dict[tuple[int, ...], NaiveGrowth] = {}  # forms differ only where a decision is too close to call
    for grown in by_form.values():
        accepted = tuple(grown.accepted.tolist())
        if accepted not in naively:
            naively[accepted] = grow_one_by_one(x, x[:0], 250, rule, accepted)
        assert_grown_as(naively[accepted], grown, x)
        assert 40 < len(accepted) < 200


@forms
@given(
    pursuit=st.sampled_from(PURSUITS),
    batch=st.integers(1, 60),
    d=st.integers(1, 12),
    k=st.integers(1, 6),
    threshold=st.sampled_from([1e-4, 0.02, 0.1, 0.3, 0.6, 0.95]),
    capacity=st.integers(1, 40),
    start=st.integers(0, 20),
    common=st.sampled_from([0.0, 1.0, 10.0]),
    exponent=st.sampled_from([1.0, 0.75, 0.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_problem(form, pursuit, batch, d, k, threshold, capacity, start, common, exponent, seed):
    x = mixtures(batch + start, d, seed, DTYPES[form], common)
    atoms = torch.nn.functional.normalize(x[:start], dim=1)[:capacity]
    typical = float(x.square().sum(1).median())
    name, nonnegative = pursuit
    rule = GrowthRule(k, name, nonnegative, threshold, exponent, typical)
    assert_naive(x[start:], capacity, rule, form, atoms)


@pytest.mark.parametrize("form", [*COMPILED, "torch gram", "torch residual"])
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
@given(
    pursuit=st.sampled_from(PURSUITS),
    batch=st.integers(1, 40),
    d=st.integers(2, 12),
    k=st.integers(1, 5),
    threshold=st.sampled_from([1e-3, 0.02, 0.1, 0.3]),
    capacity=st.integers(1, 30),
    start=st.integers(0, 10),
    exponent=st.sampled_from([1.0, 0.85, 0.0]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=settings.default.max_examples // 3 or 1)
def test_any_problem_with_atoms_in_half_precision(
    form, stored, pursuit, batch, d, k, threshold, capacity, start, exponent, seed
):
    x = mixtures(batch + start, d, seed, torch.float32)
    atoms, x = torch.nn.functional.normalize(x[:start], dim=1)[:capacity].to(stored), x[start:]
    rule = GrowthRule(k, pursuit[0], pursuit[1], threshold, exponent, float(x.square().sum(1).median()))
    grown = grow(x, capacity, rule, form, atoms)
    naive = grow_one_by_one(x, atoms, capacity, rule, grown.accepted.tolist())
    assert_grown_as(naive, grown, x)


@forms
@pytest.mark.parametrize(("pursuit", "nonnegative"), PURSUITS)
def test_the_capacity_is_reached_in_the_middle(form, pursuit, nonnegative):
    x = mixtures(100, 24, seed=2, dtype=DTYPES[form])
    grown = assert_naive(x, 37, GrowthRule(4, pursuit, nonnegative, 0.1), form)
    assert len(grown.accepted) == 37
    assert int(grown.accepted[-1]) < 80


@forms
@pytest.mark.parametrize("exponent", [1.0, 0.5])
def test_a_full_dictionary_only_encodes(form, exponent):
    x = mixtures(80, 16, seed=3, dtype=DTYPES[form])
    atoms = torch.nn.functional.normalize(x[:10], dim=1)
    rule = GrowthRule(3, "mp", False, 0.1, exponent, float(x.square().sum(1).median()))
    grown = grow(x[10:], 10, rule, form, atoms)
    assert grown.accepted.tolist() == []
    assert grown.atoms.shape == (0, 16)
    code = pursue("mp", x[10:], with_room(atoms, len(atoms), form), 3, False, rule.shares(x[10:]))
    torch.testing.assert_close(grown.residual_energy, code.residual_energy)


@pytest.mark.parametrize("pursuit", ["mp", "omp"])
def test_the_size_of_a_block_changes_nothing(monkeypatch, pursuit):
    x = mixtures(80, 24, seed=4)
    rule = GrowthRule(4, pursuit, False, 0.2)
    usual = grow(x, 80, rule, USUAL)
    for smallest, largest in ((1, 1), (2, 7), (1000, 1000)):
        monkeypatch.setattr(module, "SMALLEST_BLOCK", smallest)
        monkeypatch.setattr(module, "LARGEST_BLOCK", largest)
        other = grow(x, 80, rule, USUAL)
        assert other.accepted.tolist() == usual.accepted.tolist()
        torch.testing.assert_close(other.residual_energy, usual.residual_energy)


@pytest.mark.parametrize("pursuit", ["mp", "omp"])
def test_the_size_of_a_compiled_block_changes_nothing(monkeypatch, pursuit):
    x = mixtures(500, 24, seed=4, dtype=torch.float32)
    rule = GrowthRule(4, pursuit, False, 0.2)
    usual = grow(x, 500, rule, "gram, half")
    for smallest, largest, new in ((1, 1, 1), (3, 7, 2), (500, 500, 500)):
        monkeypatch.setattr(compiled, "SMALLEST_BLOCK", smallest)
        monkeypatch.setattr(compiled, "LARGEST_BLOCK", largest)
        monkeypatch.setattr(compiled, "NEW_ATOMS_PER_BLOCK", new)
        other = grow(x, 500, rule, "gram, half")
        assert torch.equal(other.accepted, usual.accepted)
        torch.testing.assert_close(other.residual_energy, usual.residual_energy)


@cache
def grown_at_once(pursuit: PursuitName, form: str) -> tuple[Tensor, GrowthRule, Growth]:
    x, rule = mixtures(200, 16, seed=5, dtype=DTYPES[form]), GrowthRule(3, pursuit, False, 0.2, 0.85, 16.0)
    return x, rule, grow(x, 80, rule, form)


@pytest.mark.parametrize("form", ["gram, half", "no gram, single", USUAL])
@given(cuts=st.lists(st.integers(1, 199), max_size=6), pursuit=st.sampled_from(["mp", "omp"]))
@settings(max_examples=settings.default.max_examples // 3 or 1)
def test_the_cut_into_batches_changes_nothing(form, cuts, pursuit):
    x, rule, whole = grown_at_once(pursuit, form)
    prepared = with_room(x[:0], 80, form)
    accepted, energies = [], []
    edges = sorted({0, 200, *cuts})
    for begin, end in pairwise(edges):
        grown = grow_sequential(x[begin:end], prepared, rule)
        accepted += (grown.accepted + begin).tolist()
        energies.append(grown.residual_energy)
        prepared.place(prepared.n, grown.atoms)
    assert accepted == whole.accepted.tolist()
    torch.testing.assert_close(torch.cat(energies), whole.residual_energy)


def test_what_lies_behind_the_dictionary_is_the_new_atoms_with_their_gram():
    x = mixtures(200, 16, seed=6)
    prepared = with_room(x[:0], 200, "torch gram")
    grown = grow_sequential(x, prepared, GrowthRule(3, "mp", False, 0.2))
    n = len(grown.accepted)
    assert prepared.n == 0
    torch.testing.assert_close(prepared.rows[:n], grown.atoms)
    torch.testing.assert_close(prepared.gram[:n, :n], grown.atoms @ grown.atoms.T)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_the_compiled_loops_leave_a_gram_of_the_new_atoms(stored):
    x = mixtures(200, 16, seed=6, dtype=torch.float32)
    prepared = with_room(x[:0].to(stored), 200, "gram, half")
    n = len(grow_sequential(x, prepared, GrowthRule(3, "mp", False, 0.2)).accepted)
    exact = prepared.rows[:n].double() @ prepared.rows[:n].double().T
    torch.testing.assert_close(prepared.gram[:n, :n].double() * UNIT, exact, rtol=0, atol=0.51 * UNIT)


@forms
@pytest.mark.parametrize("pursuit", ["mp", "omp"])
@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("given", [0, 1])  # of the atoms that are repeated, those that were there before
def test_repeats_are_left_out_where_the_threshold_would_take_them(form, pursuit, nonnegative, given):
    axes = torch.eye(4, dtype=DTYPES[form])
    first, second = axes[:2]
    near, far = first + 0.03 * axes[2], first + 0.06 * axes[2]  # cosines of .99955 and .9982
    x = torch.stack([first, 3 * near, second, 5 * first, -first, near, far])
    grown = grow(x, 10, GrowthRule(1, pursuit, nonnegative, 1e-5), form, axes[:given])
    assert grown.accepted.tolist() == ([0, 2, 4, 6] if nonnegative else [0, 2, 6])[given:]
    # By an exponent below 1 the same, of activations whose norm is enormous.
    enormous = GrowthRule(1, pursuit, nonnegative, 0.1, 0.0, 1.0)
    assert grow(1000 * x, 10, enormous, form, axes[:given]).accepted.tolist() == grown.accepted.tolist()


@forms
@pytest.mark.parametrize("exponent", [1.0, 0.5])
def test_activations_without_energy_are_never_accepted(form, exponent):
    x = torch.zeros(5, 4, dtype=DTYPES[form])
    x[2, 1] = 3.0
    grown = grow(x, 5, GrowthRule(2, "omp", False, 0.5, exponent), form)
    assert grown.accepted.tolist() == [2]
    assert grown.residual_energy.tolist() == [0, 0, 9, 0, 0]


@forms
@pytest.mark.parametrize("n", [0, 1])
def test_tiny_batches(form, n):
    grown = grow(torch.ones(n, 3, dtype=DTYPES[form]), 4, GrowthRule(2, "mp", False, 0.5), form)
    assert grown.accepted.tolist() == list(range(n))
    assert grown.residual_energy.shape == (n,)


def test_one_process_alone_grows_as_without_others():
    """What is sent to other processes holds all that a step of growth is."""
    x, rule = mixtures(40, 12, seed=3, dtype=torch.float32), GrowthRule(4, "omp", False, 0.3)
    expected = grow(x, 60, rule, "gram, single")
    (found,) = grow_among_ranks("sequential", [Step(x, with_room(x[:0], 60, "gram, single"), rule)])
    assert 0 < len(expected.accepted) < len(x)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
