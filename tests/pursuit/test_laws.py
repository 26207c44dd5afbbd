"""What holds for every pursuit, whatever the numbers: energies, orthogonality, prefixes, invariances."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from itda_lightning.pursuit import (
    PreparedAtoms,
    SparseCode,
    algorithm,
    combine,
    compiled,
    matching_pursuit,
    orthogonal_matching_pursuit,
    pursue,
)
from tests.pursuit.cases import Case, cases, make_case
from tests.pursuit.forms import COMPILED, DTYPES, forms, of_form, prepare

pursuits = pytest.mark.parametrize("pursuit", ["mp", "omp"])
PUBLIC = {"mp": matching_pursuit, "omp": orthogonal_matching_pursuit}
# Cases in which float64 leaves no decision to rounding.
generic = cases(("random", "correlated"))
# Laws that take several pursuits per example, in up to twelve forms.
third_as_many = settings(max_examples=settings.default.max_examples // 3 or 1)


def run(pursuit: str, case: Case, form: str | PreparedAtoms, **options) -> SparseCode:
    """Encode a case in that form, or with its atoms as they were prepared."""
    prepared = prepare(case.atoms, form) if isinstance(form, str) else form
    return pursue(pursuit, case.x, prepared, case.k, **options)


def energy(rows: Tensor) -> Tensor:
    return rows.double().square().sum(-1)


def condition(code: SparseCode, case: Case) -> Tensor:
    """(batch,) condition numbers of the supports, by which least squares on them magnify rounding."""
    atoms = case.atoms.double()
    numbers = [float(torch.linalg.cond(atoms[row[row >= 0]])) if (row >= 0).any() else 1.0 for row in code.support]
    return torch.tensor(numbers, dtype=torch.float64)


def residual(code: SparseCode, case: Case) -> Tensor:
    return case.x.double() - code.to_dense(len(case.atoms)).double() @ case.atoms.double()


def slack(form: str, code: SparseCode, case: Case) -> Tensor:
    """(batch,) what rounding may add to a residual energy; coefficients are rounded to the precision of the code."""
    if DTYPES[form] == torch.float64:
        return 1e-12 * energy(case.x)
    return 1e-6 * condition(code, case) * energy(case.x)


@pursuits
@forms
@given(d=st.integers(1, 16), l0=st.integers(1, 16), extra=st.integers(0, 4), seed=st.integers(0, 2**32 - 1))
@third_as_many
def test_sparse_combinations_of_orthonormal_atoms_are_recovered_exactly(pursuit, form, d, l0, extra, seed):
    generator = torch.Generator().manual_seed(seed)
    atoms = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0]
    l0 = min(l0, d)
    chosen = torch.randperm(d, generator=generator)[:l0]
    sizes = torch.arange(l0, 0, -1, dtype=torch.float64) * torch.tensor([1.0, -1.0]).repeat(8)[:l0]
    case = of_form(Case((sizes @ atoms[chosen])[None], atoms, l0 + extra), form)
    code, rounding = run(pursuit, case, form), 1e-12 if DTYPES[form] == torch.float64 else 1e-6
    assert code.support[0].tolist() == chosen.tolist() + [-1] * extra
    torch.testing.assert_close(code.coefficients[0, :l0].double(), sizes, rtol=rounding, atol=rounding)
    assert code.residual_energy[0] < rounding**2 * energy(sizes)


@pursuits
@forms
@given(case=cases(), nonnegative=st.booleans())
@third_as_many
def test_a_larger_budget_continues_the_same_path_and_never_explains_less(pursuit, form, case, nonnegative):
    case = of_form(case, form)
    prepared, before = prepare(case.atoms, form), energy(case.x)
    full = run(pursuit, case, prepared, nonnegative=nonnegative)
    for k in range(1, case.k + 1):
        code = run(pursuit, case._replace(k=k), prepared, nonnegative=nonnegative)
        assert torch.equal(code.support, full.support[:, :k])
        if pursuit == "mp":
            assert torch.equal(code.coefficients, full.coefficients[:, :k])
        assert (code.residual_energy <= before + slack(form, code, case)).all()
        before = code.residual_energy


@pursuits
@forms
@given(case=cases(), nonnegative=st.booleans())
@third_as_many
def test_residual_energy_is_that_of_the_reconstruction(pursuit, form, case, nonnegative):
    case = Case(case.x.float(), case.atoms.float(), case.k)
    code = run(pursuit, case, form, nonnegative=nonnegative)
    dense = code.to_dense(len(case.atoms)).double() @ case.atoms.double()
    actual = energy(case.x.double() - dense)
    torch.testing.assert_close(
        code.residual_energy.double() / energy(case.x.double()), actual / energy(case.x.double()), rtol=1e-4, atol=1e-9
    )
    if nonnegative:
        assert (code.coefficients >= 0).all()


@forms
@given(case=cases(), nonnegative=st.booleans())
def test_matching_pursuit_conserves_energy(form, case, nonnegative):
    case = of_form(case, form)
    code, rounding = run("mp", case, form, nonnegative=nonnegative), 1e-12 if DTYPES[form] == torch.float64 else 1e-6
    torch.testing.assert_close(energy(code.coefficients) + code.residual_energy, energy(case.x), rtol=rounding, atol=0)


@forms
@given(case=cases())
def test_the_residual_of_orthogonal_matching_pursuit_is_orthogonal_to_its_support(form, case):
    case = of_form(case, form)
    code = run("omp", case, form)
    correlation = residual(code, case) @ case.atoms.double().T
    on_support = torch.where(code.to_dense(len(case.atoms)) != 0, correlation, 0.0)
    # An accepted atom may be as close to the span of the others as 1e-3, which costs three digits, squared.
    rounding = 1e-8 if DTYPES[form] == torch.float64 else 1e-6 * condition(code, case)
    assert (on_support.abs().amax(1) <= rounding * case.x.double().norm(dim=1)).all()


@given(case=generic)
def test_no_code_on_the_same_atoms_explains_more_than_orthogonal_matching_pursuit(case):
    code = run("omp", case, "torch residual")
    for sample in range(len(case.x)):
        atoms = case.atoms[code.support[sample][code.support[sample] >= 0]]
        matching = pursue("mp", case.x[sample : sample + 1], prepare(atoms, "torch residual"), 3 * case.k)
        assert code.residual_energy[sample] <= matching.residual_energy[0] + 1e-12 * energy(case.x[sample])


@given(case=cases())
def test_orthogonal_matching_pursuit_picks_no_atom_twice(case):
    support = run("omp", case, "torch gram").support
    for row in support.tolist():
        used = [atom for atom in row if atom >= 0]
        assert len(used) == len(set(used))


@forms
@given(d=st.integers(1, 12), extra=st.integers(0, 8), seed=st.integers(0, 2**32 - 1))
def test_decoding_an_exact_code_gives_the_activation_back(form, d, extra, seed):
    # As many steps as dimensions reach every x, unless the chosen atoms are all but dependent.
    generator = torch.Generator().manual_seed(seed)
    atoms = torch.nn.functional.normalize(torch.randn(d + extra, d, generator=generator, dtype=torch.float64), dim=1)
    case = Case(torch.randn(3, d, generator=generator, dtype=torch.float64), atoms, d)
    case = of_form(case, form)
    code = run("omp", case, form)
    error = torch.linalg.vector_norm(combine(code.support, code.coefficients, case.atoms) - case.x, dim=1)
    rounding = 0.0 if DTYPES[form] == torch.float64 else 1e-6 * condition(code, case)
    assert (error <= 2e-5 + rounding * case.x.double().norm(dim=1)).all()


@pursuits
@forms
@given(case=generic, data=st.data())
@third_as_many
def test_supports_do_not_depend_on_the_batch(pursuit, form, case, data):
    case = of_form(case, form)
    prepared = prepare(case.atoms, form)
    whole = run(pursuit, case, prepared)
    order = torch.tensor(data.draw(st.permutations(range(len(case.x)))))
    assert torch.equal(run(pursuit, case._replace(x=case.x[order]), prepared).support, whole.support[order])
    one_by_one = [run(pursuit, case._replace(x=row[None]), prepared).support for row in case.x]
    assert torch.equal(torch.cat(one_by_one), whole.support)


@pursuits
@forms
@pytest.mark.parametrize("smaller", [1, 3000])
def test_codes_do_not_depend_on_the_size_of_blocks(pursuit, form, smaller, monkeypatch):
    case = make_case("correlated", 9, 300, 12, 6, 1.0, 5)
    case = of_form(case, form)
    whole = run(pursuit, case, form)
    for name, value in (("BLOCK_BYTES", smaller), ("BLOCK_ROWS", smaller % 7), ("PART", 100)):
        monkeypatch.setattr(compiled, name, value)
    monkeypatch.setitem(algorithm.BLOCK_BYTES, "cpu", smaller)
    parts = run(pursuit, case, form)
    assert torch.equal(parts.support, whole.support)
    # The compiled loops give the same bits: they compute every sample by itself.
    tolerance = 1e-10 if form.startswith("torch") else 0.0
    torch.testing.assert_close(parts.coefficients, whole.coefficients, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(parts.residual_energy, whole.residual_energy, rtol=tolerance, atol=tolerance)


@pursuits
@given(case=generic, scale=st.sampled_from([-1.0, 2.0**-20, 3.0, 2.0**20]))
def test_codes_scale_with_the_activation(pursuit, case, scale):
    code = run(pursuit, case, "torch gram")
    scaled = run(pursuit, case._replace(x=scale * case.x), "torch gram")
    assert torch.equal(scaled.support, code.support)
    torch.testing.assert_close(
        scaled.coefficients / case.x.norm(), scale * code.coefficients / case.x.norm(), rtol=1e-6, atol=1e-9
    )


@pursuits
@forms
@given(case=cases(), nonnegative=st.booleans(), error_threshold=st.sampled_from([0.0, 0.01, 0.2, 0.5, 1.0]))
@third_as_many
def test_a_sample_ends_exactly_when_its_error_reaches_the_threshold(pursuit, form, case, nonnegative, error_threshold):
    case = of_form(case, form)
    prepared = prepare(case.atoms, form)
    full = run(pursuit, case, prepared, nonnegative=nonnegative)
    code = run(pursuit, case, prepared, nonnegative=nonnegative, error_threshold=error_threshold)
    # Compiled loops decide by the very energy that they return, rounded once.
    rounding = 1e-12 if DTYPES[form] == torch.float64 else 1e-7
    limit, allowed = error_threshold * energy(case.x), rounding * energy(case.x)
    used, could_use = ((c.support >= 0).sum(1) for c in (code, full))
    for sample in range(len(case.x)):
        assert torch.equal(code.support[sample, : used[sample]], full.support[sample, : used[sample]])
        if used[sample] < could_use[sample]:
            assert code.residual_energy[sample] <= limit[sample] + allowed[sample]
        if used[sample]:
            one_less = energy(case.x[sample])
            if used[sample] > 1:
                shorter = case._replace(k=int(used[sample]) - 1)
                one_less = run(pursuit, shorter, prepared, nonnegative=nonnegative).residual_energy[sample]
            assert one_less > limit[sample] - allowed[sample]


@pursuits
def test_a_threshold_of_one_takes_no_atom(pursuit):
    case = make_case("random", 3, 10, 4, 2, 1.0, 6)
    code = PUBLIC[pursuit](case.x, case.atoms, 2, error_threshold=1.0)
    assert (code.support == -1).all()
    torch.testing.assert_close(code.residual_energy.double(), energy(case.x))


@pursuits
@pytest.mark.parametrize("form", ["public", "gram, half", "torch gram"])  # the same for each, but for what is prepared
@pytest.mark.parametrize(("batch", "n"), [(0, 5), (3, 0), (0, 0)])
@pytest.mark.parametrize("half", [False, True])
def test_an_empty_batch_or_dictionary_gives_empty_codes(pursuit, form, batch, n, half):
    dtype = torch.float16 if half else DTYPES.get(form, torch.float32)
    x = torch.ones(batch, 4, dtype=dtype)
    atoms = torch.nn.functional.normalize(torch.ones(n, 4), dim=1).to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    code = PUBLIC[pursuit](x, atoms, 3) if form == "public" else pursue(pursuit, x, prepare(atoms, form), 3)
    assert code.support.shape == code.coefficients.shape == (batch, 3)
    assert (code.support == -1).all()
    assert (code.coefficients == 0).all()
    assert code.coefficients.dtype == code.residual_energy.dtype == wide
    assert code.residual_energy.tolist() == [4.0] * batch
    assert torch.equal(code.to_dense(n), torch.zeros(batch, n, dtype=wide))
    assert code.l0().tolist() == [0] * batch


@pursuits
@forms
def test_zeros_and_what_no_atom_explains_take_no_atom(pursuit, form):
    case = Case(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 5.0]]), torch.eye(3)[:2], 2)
    code = run(pursuit, case, form)
    assert (code.support == -1).all()
    assert code.residual_energy.tolist() == [0.0, 25.0]


@pursuits
def test_nonnegative_takes_no_atom_that_points_away(pursuit):
    x = torch.tensor([[-3.0, 1.0]])
    code = PUBLIC[pursuit](x, torch.eye(2), 2, nonnegative=True)
    assert code.support.tolist() == [[1, -1]]
    assert code.coefficients.tolist() == [[1.0, 0.0]]
    assert PUBLIC[pursuit](x, torch.eye(2), 2).coefficients.tolist() == [[-3.0, 1.0]]


@pursuits
@forms
@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e12, 1e25])
def test_huge_and_tiny_activations_have_the_same_supports(pursuit, form, scale):
    # Their squares leave the range of single precision.
    case = make_case("correlated", 20, 200, 16, 8, 1.0, 7)
    atoms, x = case.atoms.float(), case.x.float()
    usual = pursue(pursuit, x.double(), prepare(atoms.double(), "torch residual"), 8)
    code = pursue(pursuit, x * scale, prepare(atoms, form), 8)
    assert torch.equal(code.support, usual.support)
    torch.testing.assert_close(code.coefficients.double() / scale, usual.coefficients, rtol=1e-3, atol=1e-4)


@pursuits
@pytest.mark.parametrize("form", COMPILED)
@pytest.mark.parametrize("threads", [2, 5])
def test_codes_do_not_depend_on_the_number_of_threads(pursuit, form, threads):
    case = make_case("correlated", 203, 300, 24, 8, 1.0, 9)
    case, before = Case(case.x.float(), case.atoms.float(), case.k), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = run(pursuit, case, form)
        torch.set_num_threads(threads)
        together = run(pursuit, case, form)
    finally:
        torch.set_num_threads(before)
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one, other)


@pursuits
@pytest.mark.parametrize("nonnegative", [False, True])
def test_compiled_codes_have_the_same_bits_whatever_screens_the_atoms(pursuit, nonnegative):
    case = make_case("correlated", 203, 300, 24, 8, 1.0, 9)
    case = Case(case.x.float(), case.atoms.float(), case.k)
    first, *others = (run(pursuit, case, form, nonnegative=nonnegative) for form in COMPILED)
    for code in others:
        for one, other in zip(code, first, strict=True):
            assert torch.equal(one, other)
