"""The kernels, in both forms, against float64 references written from the definitions."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from itda_lightning.pursuit import SparseCode, matching_pursuit, orthogonal_matching_pursuit, pursue
from tests import oracle
from tests.pursuit.cases import KINDS, Case, cases, make_case
from tests.pursuit.forms import DTYPES, forms, of_form, prepare

ORACLES = {"mp": oracle.matching_pursuit, "omp": oracle.orthogonal_matching_pursuit}
PUBLIC = {"mp": matching_pursuit, "omp": orthogonal_matching_pursuit}
# Four units in the last place: what an inner product of unit vectors may be off by.
ROUNDING = {torch.float32: 5e-7, torch.float64: 1e-14}
pursuits = pytest.mark.parametrize("pursuit", ["mp", "omp"])
thresholds = st.sampled_from([None, None, 0.0, 0.05, 0.3, 1.0])


def assert_matches_oracle(
    pursuit: str, code: SparseCode, case: Case, nonnegative: bool, error_threshold: float | None
) -> None:
    atoms = case.atoms.double().numpy()
    rounding = ROUNDING[code.coefficients.dtype]
    for sample, x in enumerate(case.x.double().numpy()):
        used = int((code.support[sample] >= 0).sum())
        support = code.support[sample, :used].tolist()
        coefficients = code.coefficients[sample].double().numpy()
        expected = ORACLES[pursuit](x, atoms, case.k, nonnegative, error_threshold, oracle.Witness(support, rounding))
        assert support == expected.support
        assert (code.support[sample, used:] == -1).all()
        assert (coefficients[used:] == 0).all()
        if not used:
            continue
        # Least squares on nearly dependent atoms magnifies any rounding by the squared condition number.
        condition = float(np.linalg.cond(atoms[support])) if pursuit == "omp" else 1.0
        allowed = 20 * rounding * float(np.linalg.norm(x)) * condition**2
        if condition < 2:
            allowed = min(allowed, 1e-5 * float(np.linalg.norm(x)))
        np.testing.assert_allclose(coefficients[:used], np.array(expected.coefficients), rtol=0, atol=allowed)


def run(pursuit: str, case: Case, nonnegative: bool, error_threshold: float | None, form: str) -> SparseCode:
    # Behind the atoms lies scratch, as behind those of a growing dictionary.
    prepared = prepare(case.atoms, form, spare=len(case.atoms) % 4)
    return pursue(pursuit, case.x, prepared, case.k, nonnegative, error_threshold)


@pursuits
@forms
@given(case=cases(), nonnegative=st.booleans(), error_threshold=thresholds)
def test_all_forms_match_the_oracle(pursuit, form, case, nonnegative, error_threshold):
    case = of_form(case, form)
    code = run(pursuit, case, nonnegative, error_threshold, form)
    assert code.coefficients.dtype == DTYPES[form]
    assert_matches_oracle(pursuit, code, case, nonnegative, error_threshold)


@pursuits
@forms
@pytest.mark.parametrize("kind", KINDS)
def test_larger_problems_match_the_oracle(pursuit, form, kind):
    case = make_case(kind, batch=4, n=300, d=64, k=24, scale=10.0, seed=0)
    case = Case(case.x.float(), case.atoms.float(), case.k)
    assert_matches_oracle(pursuit, run(pursuit, case, False, None, form), case, False, None)


@pursuits
@forms
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@given(case=cases(("random", "correlated")), nonnegative=st.booleans(), error_threshold=thresholds)
# Rows rounded to half precision are not quite of unit norm, which least squares has to allow for.
@example(case=make_case("random", 8, 50, 4, 4, 1.0, 0), nonnegative=False, error_threshold=None)
@settings(max_examples=settings.default.max_examples // 2)
def test_half_precision_is_computed_in_single_precision(pursuit, form, dtype, case, nonnegative, error_threshold):
    x = case.x * (1e3 / case.x.norm(dim=1).max())
    case = Case(x.to(dtype), case.atoms.to(dtype), case.k)
    code = run(pursuit, case, nonnegative, error_threshold, form)
    assert code.coefficients.dtype == torch.float32
    assert_matches_oracle(pursuit, code, case, nonnegative, error_threshold)


@pursuits
@given(case=cases(), nonnegative=st.booleans(), error_threshold=thresholds)
def test_public_functions_match_the_oracle(pursuit, case, nonnegative, error_threshold):
    case = Case(case.x.float(), case.atoms.float(), case.k)
    code = PUBLIC[pursuit](case.x, case.atoms, case.k, nonnegative, error_threshold)
    assert_matches_oracle(pursuit, code, case, nonnegative, error_threshold)


@pursuits
@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float64), (torch.float64, torch.float32)])
def test_mixed_precisions_are_computed_in_the_wider_one(pursuit, dtypes):
    case = make_case("random", 40, 30, 12, 6, 1.0, 1)
    case = Case(case.x.to(dtypes[0]), case.atoms.to(dtypes[1]), case.k)
    code = PUBLIC[pursuit](case.x, case.atoms, case.k)
    assert code.coefficients.dtype == torch.float64
    # float32 atoms are of unit norm to single precision only, but their own products are exact to double precision.
    assert_matches_oracle(pursuit, code, case, False, None)


@pursuits
@forms
@pytest.mark.parametrize("transform", [lambda t: t.T.contiguous().T, lambda t: t.repeat(1, 2)[:, : t.shape[1]]])
def test_strided_inputs_give_the_codes_of_contiguous_ones(pursuit, form, transform):
    case = make_case("random", 6, 20, 8, 4, 1.0, 2)
    case = of_form(case, form)
    strided = Case(transform(case.x), transform(case.atoms), case.k)
    assert not strided.x.is_contiguous()
    assert_matches_oracle(pursuit, run(pursuit, strided, False, None, form), case, False, None)


def assert_without_gradient(pursuit: str, code: SparseCode, case: Case) -> None:
    assert not code.coefficients.requires_grad
    assert not code.residual_energy.requires_grad
    assert_matches_oracle(pursuit, code, case, False, None)


@pursuits
@forms
def test_inputs_that_require_grad_give_codes_that_do_not(pursuit, form):
    case = of_form(make_case("random", 6, 20, 8, 4, 1.0, 3), form)
    tracked = Case(case.x.clone().requires_grad_(), case.atoms.clone().requires_grad_(), case.k)
    assert_without_gradient(pursuit, pursue(pursuit, tracked.x, prepare(tracked.atoms, form), case.k), case)


@pursuits
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_public_functions_take_inputs_that_require_grad(pursuit, dtype):
    case = make_case("random", 6, 20, 8, 4, 1.0, 3)
    case = Case(case.x.to(dtype), case.atoms.to(dtype), case.k)
    code = PUBLIC[pursuit](case.x.clone().requires_grad_(), case.atoms.clone().requires_grad_(), case.k)
    assert_without_gradient(pursuit, code, case)


@pursuits
@forms
@pytest.mark.parametrize("k", [1, 7])
@pytest.mark.parametrize("copies", [2, 80])
def test_exact_ties_go_to_the_lowest_index(pursuit, form, k, copies):
    atoms = torch.eye(4).repeat(copies, 1)
    x = torch.tensor([[2.0, -2.0, 2.0, -2.0]])
    code = pursue(pursuit, x, prepare(atoms, form), k)
    assert code.support[0].tolist() == [0, 1, 2, 3, -1, -1, -1][:k]
    assert code.coefficients[0].tolist() == [2.0, -2.0, 2.0, -2.0, 0.0, 0.0, 0.0][:k]


@pursuits
def test_the_oracle_without_a_witness_agrees_on_problems_without_ties(pursuit):
    case = make_case("random", 10, 30, 12, 6, 1.0, 4)
    code = pursue(pursuit, case.x, prepare(case.atoms, "torch residual"), case.k)
    for sample, x in enumerate(case.x.numpy()):
        expected = ORACLES[pursuit](x, case.atoms.numpy(), case.k)
        assert code.support[sample].tolist() == expected.support
        np.testing.assert_allclose(code.coefficients[sample], expected.coefficients, rtol=1e-9, atol=1e-12)


def test_a_witness_is_followed_only_where_scores_are_tied():
    atoms = np.eye(3)
    x = np.array([1.0, 1.0 - 1e-9, 0.5])
    assert oracle.matching_pursuit(x, atoms, 1, witness=oracle.Witness([1], 0.0)).support == [1]
    assert oracle.matching_pursuit(x, atoms, 1, witness=oracle.Witness([2], 0.0)).support == [0]
    assert oracle.matching_pursuit(x, atoms, 2, witness=oracle.Witness([0], 0.0)).support == [0, 1]
