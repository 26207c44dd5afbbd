"""Pruning: against leave-one-out by brute force in float64, and its laws, in every form."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import itda_lightning as il
from itda_lightning.pursuit import PURSUITS, SparseCode, encode_in_parts, gain_for_l0, leave_one_out, pruning, pursue
from tests.oracle import independent, pruned
from tests.pursuit.cases import Case, cases, make_case
from tests.pursuit.forms import DTYPES, PRUNING_FORMS, of_form, prepare

forms = pytest.mark.parametrize("form", PRUNING_FORMS)
HALF = [(form, dtype) for form in PRUNING_FORMS for dtype in (torch.bfloat16, torch.float16)]
SETTINGS = {"pursuit": st.sampled_from(list(PURSUITS)), "nonnegative": st.booleans()}


def code_of(case: Case, form: str, pursuit: str, nonnegative: bool):
    prepared = prepare(case.atoms, form)
    return pursue(pursuit, case.x, prepared, case.k, nonnegative), prepared


@pytest.mark.parametrize(("form", "stored"), [*((form, DTYPES[form]) for form in PRUNING_FORMS), *HALF])
@given(case=cases(), share=st.floats(0, 0.3), **SETTINGS)
def test_what_leaves_and_what_stays_is_that_of_brute_force(form, stored, case, share, pursuit, nonnegative):
    case = Case(case.x.to(torch.promote_types(stored, torch.float32)), case.atoms.to(stored), case.k)
    code, prepared = code_of(case, form, pursuit, nonnegative)
    result = leave_one_out(code, case.x, prepared, share, nonnegative).code
    for i, x in enumerate(case.x.double().numpy()):
        support = [atom for atom in code.distinct().support[i].tolist() if atom >= 0]
        atoms = case.atoms.double().numpy()
        assume(independent(support, atoms) == support)  # atoms that depend on others leave, whatever they explain
        expected = pruned(x, atoms, support, share, nonnegative)
        assume(expected.margin > 1e-4)
        left = result.support[i] >= 0
        assert result.support[i][left].tolist() == expected.support
        assert bool(left[: len(expected.support)].all())
        scale = max(1e-30, float(torch.linalg.vector_norm(case.x[i].double())))
        coefficients = torch.tensor(expected.coefficients, dtype=torch.float64)
        tolerance = 1e-3 if case.x.dtype == torch.float32 else 1e-8
        torch.testing.assert_close(
            result.coefficients[i][left].double() / scale, coefficients / scale, rtol=tolerance, atol=tolerance
        )
        energy = float(result.residual_energy[i]) / scale**2
        assert energy == pytest.approx(expected.energy / scale**2, abs=1e-5)


@forms
@given(case=cases(), shares=st.tuples(st.floats(1e-4, 0.5), st.floats(1e-4, 0.5)), **SETTINGS)
def test_more_pruning_leaves_a_part_of_the_support_and_explains_no_more(form, case, shares, pursuit, nonnegative):
    case = of_form(case, form)
    code, prepared = code_of(case, form, pursuit, nonnegative)
    less, more = (leave_one_out(code, case.x, prepared, share, nonnegative).code for share in sorted(shares))
    for few, many in zip(more.support.tolist(), less.support.tolist(), strict=True):
        assert set(few) - {-1} <= set(many)
    energy = case.x.double().square().sum(1)
    assert bool((more.residual_energy.double() >= less.residual_energy.double() - 1e-5 * energy).all())
    if nonnegative:
        assert bool((more.coefficients >= 0).all())


@forms
@given(case=cases(("random", "correlated")), share=st.floats(1e-4, 0.5), **SETTINGS)
def test_what_an_atom_bears_tells_when_it_leaves(form, case, share, pursuit, nonnegative):
    case = of_form(case, form)
    code, prepared = code_of(case, form, pursuit, nonnegative)
    bears = leave_one_out(code, case.x, prepared, torch.inf, nonnegative).bears
    assume(not bool(((bears / share - 1).abs() < 1e-6).any()))
    left = leave_one_out(code, case.x, prepared, share, nonnegative).code.support >= 0
    assert torch.equal(left.sum(1), (bears >= share).sum(1))


@forms
@given(case=cases(), share=st.sampled_from([1e-3, 0.05, torch.inf]), **SETTINGS)
def test_encoding_in_parts_prunes_what_the_pursuit_gives(form, case, share, pursuit, nonnegative):
    case = of_form(case, form)
    code, prepared = code_of(case, form, pursuit, nonnegative)
    expected = leave_one_out(code, case.x, prepared, share, nonnegative)
    parts = encode_in_parts(case.x, lambda x: x, prepared, pursuit, case.k, nonnegative, share, None)
    codes, bears = zip(*parts, strict=True)
    for one, other in zip(SparseCode.concatenate(codes), expected.code, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(torch.cat(bears), expected.bears)


@pytest.mark.parametrize("form", [form for form in PRUNING_FORMS if DTYPES[form] == torch.float32])
def test_atoms_that_are_nearly_dependent_have_exact_coefficients(form):
    """Products in single precision would put them off by a hundredth."""
    rows = torch.randn(3, 200, generator=torch.Generator().manual_seed(0))
    rows[1] = rows[0] + 2e-3 * rows[1]
    atoms, x = torch.nn.functional.normalize(rows, dim=1), rows[:1] + rows[1:2] / 2 + rows[2:]
    given = il.SparseCode(torch.tensor([[0, 1, 2]]), torch.ones(1, 3), torch.ones(1))
    code = leave_one_out(given, x, prepare(atoms, form), 0.0, False).code
    solved = torch.linalg.lstsq(atoms.double().T, x[0].double()).solution
    torch.testing.assert_close(code.coefficients[0].double(), solved, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("entries", [1, 700])
def test_codes_do_not_depend_on_the_size_of_blocks(monkeypatch, entries):
    case = make_case("random", 20, 40, 16, 8, 1.0, seed=0)
    code, prepared = code_of(case, "torch gram", "mp", False)
    whole = leave_one_out(code, case.x, prepared, 0.05, False)
    monkeypatch.setattr(pruning, "BLOCK_ENTRIES", {"cpu": entries})  # one row at a time, and five
    parts = leave_one_out(code, case.x, prepared, 0.05, False)
    assert torch.equal(parts.code.support, whole.code.support)
    torch.testing.assert_close(parts.code.coefficients, whole.code.coefficients)
    torch.testing.assert_close(parts.bears, whole.bears)


@pytest.mark.parametrize("l0", [1.0, 2.5, 4.0])
@pytest.mark.parametrize("pursuit", list(PURSUITS))
def test_a_wanted_l0_is_met(pursuit, l0):
    case = make_case("random", 200, 40, 16, 8, 1.0, seed=0)
    dictionary = il.Dictionary(case.atoms.float(), k=8, pursuit=pursuit)
    least_gain = dictionary.calibrate_l0(case.x.float(), l0)
    assert 0 < least_gain == dictionary.least_gain < 1
    code = dictionary.encode(case.x.float())
    assert float(code.l0().double().mean()) == pytest.approx(l0, abs=0.02)
    same = il.prune(
        il.Dictionary(case.atoms.float(), k=8, pursuit=pursuit).encode(case.x.float()),
        case.x.float(),
        case.atoms.float(),
        least_gain,
    )
    assert torch.equal(same.support, code.support)


def test_codes_that_are_short_enough_are_not_pruned():
    dictionary = il.Dictionary(torch.eye(4), k=3)
    assert dictionary.calibrate_l0(torch.eye(4), 2.0) == 0
    assert gain_for_l0(torch.tensor([[0.3, 0.2], [0.1, 0.0]], dtype=torch.float64), 1.0) == 0.2


@pytest.mark.parametrize("l0", [0.0, -1.0, 3.5, float("nan")])
def test_an_l0_out_of_range(l0):
    with pytest.raises(
        il.InputError, match="the wanted mean L0 must be above 0 and at most k = 3, which is the largest L0, got"
    ):
        il.Dictionary(torch.eye(4), k=3).calibrate_l0(torch.eye(4), l0)


def test_no_activations_to_calibrate_on():
    with pytest.raises(il.InputError, match="the mean L0 is measured on activations, got none"):
        il.Dictionary(torch.eye(4), k=3).calibrate_l0(torch.zeros(0, 4), 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"least_gain": -0.1}, r"least_gain must be a share of \|x\|\^2 in \[0, 1\], got -0.1"),
        ({"least_gain": float("nan")}, "least_gain must be a share"),
        ({"x": torch.ones(3, 4)}, r"2 codes over atoms \(4, 4\) are not of x with shape \(3, 4\)"),
        ({"x": torch.ones(2, 3)}, r"2 codes over atoms \(4, 4\) are not of x with shape \(2, 3\)"),
        ({"x": torch.full((2, 4), torch.nan)}, "x has 2 non-finite rows"),
        ({"atoms": torch.eye(4)[:2]}, "the codes use atom 3 of 2"),
        ({"atoms": 2 * torch.eye(4)}, "atoms must be unit rows"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_bad_input(change, message):
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]])
    code = il.orthogonal_matching_pursuit(x, torch.eye(4), 2)
    arguments = {"code": code, "x": x, "atoms": torch.eye(4), "least_gain": 0.1} | change
    with pytest.raises(ValueError, match=message):
        il.prune(**arguments)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_dtype(dtype):
    x = torch.tensor([[4.0, 2.0, 0.5]], dtype=dtype)
    code = il.orthogonal_matching_pursuit(x, torch.eye(3, dtype=dtype), 3)
    result = il.prune(code, x, torch.eye(3, dtype=dtype), 0.05)
    assert result.support.tolist() == [[0, 1, -1]]
    assert result.coefficients.tolist() == [[4.0, 2.0, 0.0]]
    assert float(result.residual_energy) == 0.25


def test_no_codes():
    code = il.orthogonal_matching_pursuit(torch.zeros(0, 3), torch.eye(3), 2)
    assert il.prune(code, torch.zeros(0, 3), torch.eye(3), 0.1).support.shape == (0, 2)
    nothing = il.prune(
        il.orthogonal_matching_pursuit(torch.zeros(2, 3), torch.eye(3), 2), torch.zeros(2, 3), torch.eye(3), 0.1
    )
    assert nothing.support.tolist() == [[-1, -1]] * 2


@forms
def test_an_atom_whose_coefficient_is_negative_leaves_first_however_much_it_gains(form):
    """Without the second atom the error is a fifth of the activation's energy, which is far more than the limit."""
    atoms = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=DTYPES[form])
    x = torch.tensor([[2.0, -1.0], [2.0, 1.0]], dtype=DTYPES[form])
    both = il.SparseCode(torch.tensor([[0, 1], [0, 1]]), torch.ones(2, 2, dtype=x.dtype), torch.ones(2, dtype=x.dtype))
    left = leave_one_out(both, x, prepare(atoms, form), 0.02, nonnegative=True).code
    assert left.support.tolist() == [[0, -1], [0, 1]]
    torch.testing.assert_close(left.coefficients, torch.tensor([[2.0, 0.0], [1.25, 1.25]], dtype=x.dtype))
    signed = leave_one_out(both, x, prepare(atoms, form), 0.02, nonnegative=False).code
    torch.testing.assert_close(signed.coefficients[0], torch.tensor([2.75, -1.25], dtype=x.dtype))
