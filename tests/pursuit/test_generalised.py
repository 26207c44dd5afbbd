"""Generalised orthogonal matching pursuit: compiled loops and plain torch against a float64 oracle, and its laws."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from itda_lightning import generalised_orthogonal_matching_pursuit as gomp
from itda_lightning.pursuit import PURSUITS, SparseCode, compiled, orthogonal_matching_pursuit, pursue
from itda_lightning.pursuit.generalised import STEPS, _least_squares
from itda_lightning.pursuit.kernels.screening import GROUP
from tests import oracle
from tests.pursuit.cases import Case, cases, make_case
from tests.pursuit.forms import GOMP_FORMS, prepare

# Decisions that are closer than this, as a share of |x|, may go either way in single precision.
CLOSE = 1e-5
forms = pytest.mark.parametrize("form", GOMP_FORMS)
thresholds = st.sampled_from([None, None, 0.0, 0.05, 0.3, 1.0])


def run(case: Case, form: str, nonnegative: bool = False, error_threshold: float | None = None) -> SparseCode:
    return pursue("gomp", case.x, prepare(case.atoms, form), case.k, nonnegative, error_threshold)


def assert_matches_oracle(
    code: SparseCode, case: Case, nonnegative: bool, error_threshold: float | None, close: float
) -> int:
    """How many of the samples were decided clearly enough to be compared."""
    compared, atoms = 0, case.atoms.double().numpy()
    for sample, x in enumerate(case.x.double().numpy()):
        expected = oracle.generalised_orthogonal_matching_pursuit(x, atoms, case.k, nonnegative, error_threshold)
        if expected.margin <= close:
            continue
        compared += 1
        used, norm = len(expected.support), float(np.linalg.norm(x))
        assert code.support[sample].tolist() == expected.support + [-1] * (case.k - used)
        condition = float(np.linalg.cond(atoms[expected.support])) if used else 1.0
        allowed = 2e-5 * norm * condition**2
        np.testing.assert_allclose(code.coefficients[sample, :used], expected.coefficients, rtol=0, atol=allowed)
        assert (code.coefficients[sample, used:] == 0).all()
        energy = float(expected.residual @ expected.residual)
        assert float(code.residual_energy[sample]) == pytest.approx(energy, rel=1e-3, abs=1e-6 * norm**2 * condition**2)
    return compared


@forms
@given(case=cases(), nonnegative=st.booleans(), error_threshold=thresholds)
def test_all_forms_match_the_oracle(form, case, nonnegative, error_threshold):
    case = Case(case.x.float(), case.atoms.float(), case.k)
    code = run(case, form, nonnegative, error_threshold)
    assert_matches_oracle(code, case, nonnegative, error_threshold, CLOSE)


@forms
@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("k", [1, 3, 8, 24, 33])
def test_larger_problems_match_the_oracle(form, nonnegative, k):
    case = make_case("correlated", batch=12, n=300, d=64, k=k, scale=10.0, seed=0)
    case = Case(case.x.float(), case.atoms.float(), case.k)
    assert assert_matches_oracle(run(case, form, nonnegative), case, nonnegative, None, 1e-7) >= 9


@given(case=cases(), nonnegative=st.booleans(), error_threshold=thresholds)
def test_double_precision_matches_the_oracle(case, nonnegative, error_threshold):
    case = Case(case.x.double(), case.atoms.double(), case.k)
    code = gomp(case.x, case.atoms, case.k, nonnegative, error_threshold)
    assert code.coefficients.dtype == torch.float64
    assert_matches_oracle(code, case, nonnegative, error_threshold, 1e-9)


@forms
@given(case=cases(), nonnegative=st.booleans())
def test_codes_keep_their_promises(form, case, nonnegative):
    case = Case(case.x.float(), case.atoms.float(), case.k)
    code = run(case, form, nonnegative)
    used = code.support >= 0
    assert torch.equal(code.l0(), used.sum(1)), "no atom twice"
    assert not (used[:, 1:] & ~used[:, :-1]).any(), "what is used comes first"
    assert (code.coefficients[~used] == 0).all()
    if nonnegative:
        assert (code.coefficients >= 0).all()
    energy = case.x.double().square().sum(1)
    assert (code.residual_energy <= energy * (1 + 1e-5)).all()
    measured = (case.x - code.to_dense(len(case.atoms)) @ case.atoms).double().square().sum(1)
    assert torch.allclose(code.residual_energy.double(), measured, rtol=1e-3, atol=1e-5 * float(energy.max()))


def test_a_code_of_up_to_three_atoms_is_the_orthogonal_pursuits():
    case = make_case("random", 40, 60, 24, 3, 1.0, 3)
    one = gomp(case.x.float(), case.atoms.float(), 3)
    other = orthogonal_matching_pursuit(case.x.float(), case.atoms.float(), 3)
    assert torch.equal(one.support, other.support)
    assert torch.allclose(one.coefficients, other.coefficients, atol=1e-5)


@pytest.mark.parametrize("nonnegative", [False, True])
def test_a_combination_of_orthogonal_atoms_is_recovered(nonnegative):
    atoms = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(0)))[0]
    weights = torch.zeros(5, 64)
    weights[:, [3, 20, 21, 40, 63]] = torch.arange(1.0, 26).view(5, 5)
    code = gomp(weights @ atoms, atoms, 40, nonnegative)
    assert torch.allclose(code.to_dense(64), weights, atol=1e-4)


@forms
def test_codes_do_not_depend_on_the_batch(form):
    case = make_case("correlated", 50, 300, 32, 20, 1.0, 5)
    case = Case(case.x.float(), case.atoms.float(), case.k)
    whole = run(case, form, True)
    for size in (1, 7):
        parts = [run(Case(part, case.atoms, case.k), form, True) for part in case.x.split(size)]
        for values, of_whole in zip(zip(*parts, strict=True), whole, strict=True):
            if form == "torch residual":  # products of another shape round otherwise
                assert torch.allclose(torch.cat(values).double(), of_whole.double(), atol=1e-4)
            else:
                assert torch.equal(torch.cat(values), of_whole)


def test_memory_and_threads_do_not_change_codes(monkeypatch):
    case = make_case("correlated", 64, 700, 32, 20, 1.0, 6)
    case = Case(case.x.float(), case.atoms.float(), case.k)
    whole = run(case, "no gram, half", True)
    monkeypatch.setattr("itda_lightning.pursuit.compiled.PART", 128)
    monkeypatch.setattr("itda_lightning.pursuit.compiled.BLOCK_ROWS", 9)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        parts = run(case, "no gram, half", True)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(parts, whole, strict=True))


@forms
def test_nothing_to_explain_and_nothing_to_explain_with(form):
    atoms = torch.eye(6)[:3]
    x = torch.stack([torch.zeros(6), torch.eye(6)[4], 2 * torch.eye(6)[1], -3 * torch.eye(6)[2]])
    code = run(Case(x, atoms, 16), form, True)
    assert code.l0().tolist() == [0, 0, 1, 0]
    assert code.coefficients[2, 0] == 2
    assert code.residual_energy.tolist() == [0, 1, 0, 9]
    assert run(Case(x, atoms, 16), form).l0().tolist() == [0, 0, 1, 1]
    empty = run(Case(x[:0], atoms, 16), form)
    assert empty.support.shape == (0, 16)


@forms
@pytest.mark.parametrize("copies", [1, 3, 80])
def test_exact_ties_go_to_the_lowest_index(form, copies):
    code = run(Case(torch.tensor([[2.0, -2.0, 2.0, -2.0]]), torch.eye(4).repeat(copies, 1), 6), form)
    assert code.support[0].tolist() == [0, 1, 2, 3, -1, -1]
    assert code.coefficients[0].tolist() == [2.0, -2.0, 2.0, -2.0, 0.0, 0.0]


@forms
def test_repeated_atoms_are_used_once(form):
    atoms = torch.nn.functional.normalize(torch.randn(10, 8, generator=torch.Generator().manual_seed(1)), dim=1)
    code = run(Case(atoms[:4] * 3, atoms.repeat(3, 1), 24), form)
    chosen = code.support.masked_fill(code.support < 0, -100) % 10
    for row, used in zip(chosen, code.support >= 0, strict=True):
        assert len(set(row[used].tolist())) == int(used.sum())
    assert (code.residual_energy < 1e-8).all()


@given(st.integers(1, 200))
def test_steps_fill_the_code(k):
    steps = PURSUITS["gomp"].steps(k)
    assert [column for step in steps for column in range(step.start, step.stop)] == list(range(k))
    assert len(steps) <= STEPS
    assert all(step.stop - step.start == math.ceil(k / STEPS) for step in steps[:-1])


@given(case=cases())
def test_a_larger_error_threshold_never_makes_a_longer_code(case):
    case = Case(case.x.float(), case.atoms.float(), case.k)
    assume(bool(case.x.any()))
    lengths = [run(case, "no gram, single", False, share).l0() for share in (0.0, 0.2, 0.5, 1.0)]
    assert all((short <= long).all() for long, short in itertools.pairwise(lengths))
    assert (lengths[-1] == 0).all()


def test_an_atom_whose_coefficient_is_exactly_zero_stays_in_the_support():
    """Non-negative codes leave out what is negative, and zero is not: as in the compiled loops."""
    gram = torch.tensor([[[1.0, 0.6], [0.6, 1.0]]], dtype=torch.float64)
    projections, kept = torch.tensor([[1.0, 0.6]], dtype=torch.float64), torch.ones(1, 2, dtype=torch.bool)
    solved, left = _least_squares(gram, projections, kept, True)
    assert solved.tolist() == [[1.0, 0.0]]
    assert left.tolist() == [[True, True]]
    assert _least_squares(gram, projections - torch.tensor([[0.0, 0.25]]), kept, True)[1].tolist() == [[True, False]]


def test_an_atom_that_leaves_is_behind_the_others_with_one_atom_per_step_too():
    """Up to three atoms are as many steps as atoms, in which an earlier one may leave all the same."""
    case = make_case("random", 2, 5, 3, 3, 1.0, 1)
    compiled_code, torch_code = (
        pursue("gomp", case.x.float(), prepare(case.atoms.float(), form), 3, True)
        for form in ("no gram, single", "torch residual")
    )
    assert torch_code.support.tolist() == [[3, -1, -1], [3, 4, -1]]
    assert compiled_code.support.tolist() == torch_code.support.tolist()
    assert bool((compiled_code.coefficients[torch_code.support < 0] == 0).all())


@pytest.mark.parametrize("nonnegative", [False, True])
def test_codes_do_not_depend_on_how_many_atoms_are_screened_at_a_time(monkeypatch, nonnegative):
    """Nor on what the row before took at the edge of a part: the compiled loops write into rows of scores."""
    generator = torch.Generator().manual_seed(0)
    atoms = torch.nn.functional.normalize(torch.randn(192, 24, generator=generator), dim=1)
    x = torch.randn(400, 24, generator=generator) + 2 * atoms[torch.randint(60, 68, (400,), generator=generator)]
    whole = gomp(x, atoms, 9, nonnegative=nonnegative)
    monkeypatch.setattr(compiled, "PART", 64)
    parts = gomp(x, atoms, 9, nonnegative=nonnegative)
    assert torch.equal(whole.support, parts.support)
    assert torch.equal(whole.coefficients, parts.coefficients)


def test_an_atom_of_the_next_part_is_hidden_there_alone(monkeypatch):
    """Atoms are screened in parts; the first atom behind one is not in it, and its place is the next activation's."""
    monkeypatch.setattr(compiled, "PART", GROUP)
    atoms = torch.eye(2 * GROUP)
    x = torch.zeros(2, 2 * GROUP)
    x[0, [GROUP, 1]], x[1, [5, 0]] = torch.tensor([3.0, 1.0]), torch.tensor([3.0, 2.0])
    code = pursue("gomp", x, prepare(atoms, "no gram, single"), 3)
    assert code.support.tolist() == [[GROUP, 1, -1], [5, 0, -1]]
