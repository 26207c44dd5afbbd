"""The Triton kernel against the float64 oracle and the plain-torch pursuits.

Runs on a CUDA device, or without one in Triton's interpreter.
"""

import os
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from itda_lightning.pursuit import PURSUITS, Path, PreparedAtoms, PursuitName, SparseCode, pursue
from itda_lightning.pursuit.problem import Problem
from tests.pursuit.cases import KINDS, Case, cases, make_case
from tests.pursuit.test_against_oracle import assert_matches_oracle, thresholds

if sys.platform != "linux":  # there a broken installation is a failure
    pytest.skip("Triton is there on Linux only", allow_module_level=True)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # set by tests/conftest.py

from itda_lightning.pursuit import cuda  # noqa: E402  needs triton

DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
pursuits = pytest.mark.parametrize("pursuit", ["mp", "omp"])


@pytest.fixture(autouse=True, params=["in registers", "in blocks"])
def scores_held(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold all scores of a row, or several blocks of them, which 1024 scores a block would need large cases for."""
    monkeypatch.setattr(cuda, "BLOCK", 128)
    if request.param == "in blocks":
        monkeypatch.setattr(cuda, "MOST_RESIDENT", 0)


def small_case(kind: str = "random", batch: int = 4, n: int = 300, d: int = 24, k: int = 5, seed: int = 0) -> Case:
    case = make_case(kind, batch=batch, n=n, d=d, k=k, scale=10.0, seed=seed)
    return Case(case.x.float().to(DEVICE), case.atoms.float().to(DEVICE), k)


def gram_of(atoms: Tensor, form: str = "corner") -> Tensor:
    n = len(atoms)
    # A growing dictionary's Gram lies in a buffer with room for more atoms, whose other entries may be anything.
    shape = (n + 3, -(-(n + 3) // 128) * 128) if form == "corner" else (n, n)
    room = torch.full(shape, torch.nan, device=DEVICE)
    room[:n, :n] = atoms @ atoms.T
    return room[:n, :n]


def run(pursuit: PursuitName, case: Case, *arguments, form: str = "corner", **options) -> SparseCode:
    return on_gram(pursuit, case, gram_of(case.atoms, form), *arguments, **options)


def on_gram(
    pursuit: PursuitName, case: Case, gram: Tensor, *arguments, block_bytes: int = 2**28, **options
) -> SparseCode:
    problem = Problem(case.x, case.k, *arguments, **options)
    return cuda.gram_pursuit(PURSUITS[pursuit].orthogonal, problem, case.atoms, gram, block_bytes, cuda.MOST_RESIDENT)


def in_torch(pursuit: str, case: Case, nonnegative: bool, *arguments) -> SparseCode:
    prepared = PreparedAtoms(case.atoms, len(case.atoms), compiled=False)
    prepared.build_gram()
    return pursue(pursuit, case.x, prepared, case.k, nonnegative, *arguments)


def on_cpu(code: SparseCode) -> SparseCode:
    return SparseCode(*(part.cpu() for part in code))


def check_against_oracle(pursuit, code, case, nonnegative, error_threshold):
    here = Case(case.x.cpu(), case.atoms.cpu(), case.k)
    assert_matches_oracle(pursuit, on_cpu(code), here, nonnegative, error_threshold)
    residual = case.x.double() - code.to_dense(len(case.atoms)).double() @ case.atoms.double()
    energy = case.x.double().square().sum(-1).clamp(min=1e-300)
    torch.testing.assert_close(
        code.residual_energy.double() / energy, residual.square().sum(-1) / energy, rtol=1e-4, atol=1e-6
    )


def test_the_kernel_is_trusted_only_where_it_is_right(monkeypatch, caplog):
    cuda.works_on.cache_clear()
    tried = []

    def wrong(orthogonal, *arguments):
        tried.append((orthogonal, arguments[-1]))
        return torch.zeros(2048, 8, dtype=torch.int64, device=DEVICE), torch.ones(2048, 8, device=DEVICE)

    monkeypatch.setattr(cuda, "_run", wrong)
    assert not cuda.works_on(DEVICE)
    assert set(tried) == {(orthogonal, most) for orthogonal in (False, True) for most in (cuda.MOST_RESIDENT, 0)}
    assert "run in plain torch, slower: the Triton kernel fails there (it gives wrong codes)" in caplog.text
    cuda.works_on.cache_clear()


@pursuits
@pytest.mark.parametrize("kind", KINDS)
def test_codes_match_the_oracle(pursuit, kind):
    nonnegative = (KINDS.index(kind) % 2 == 0) == (pursuit == "mp")
    case = small_case(kind, batch=3, k=4)
    code = run(pursuit, case, nonnegative)
    assert code.support.dtype == torch.int64
    assert code.coefficients.dtype == code.residual_energy.dtype == torch.float32
    check_against_oracle(pursuit, code, case, nonnegative, None)


@pursuits
@settings(
    max_examples=settings.default.max_examples // 3 or 1, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(case=cases(), nonnegative=st.booleans(), error_threshold=thresholds)
def test_cases_of_every_kind_match_the_oracle(pursuit, case, nonnegative, error_threshold):
    case = Case(case.x.float().to(DEVICE), case.atoms.float().to(DEVICE), case.k)
    code = run(pursuit, case, nonnegative, error_threshold)
    assert_matches_oracle(
        pursuit, on_cpu(code), Case(case.x.cpu(), case.atoms.cpu(), case.k), nonnegative, error_threshold
    )


@pursuits
@pytest.mark.parametrize(("n", "d", "k", "seed"), [(1, 3, 2, 0), (40, 8, 8, 1), (129, 16, 5, 2), (256, 32, 4, 3)])
def test_sizes_beside_those_of_the_blocks(pursuit, n, d, k, seed):
    nonnegative = (pursuit == "mp") == (seed % 2 == 0)
    case = small_case(batch=2, n=n, d=d, k=k, seed=seed)
    code = run(pursuit, case, nonnegative, form="contiguous" if nonnegative else "corner")
    check_against_oracle(pursuit, code, case, nonnegative, None)


@pursuits
@pytest.mark.parametrize(("nonnegative", "error_threshold"), [(False, 0.0), (True, 0.05), (False, 0.3), (True, 1.0)])
def test_rows_end_at_the_threshold(pursuit, nonnegative, error_threshold):
    case = small_case(batch=6, d=16, k=7)
    case.x[2] = 0
    code = run(pursuit, case, nonnegative, error_threshold)
    check_against_oracle(pursuit, code, case, nonnegative, error_threshold)
    assert (code.support[2] == -1).all()
    if error_threshold == 0.3:
        assert len((code.support >= 0).sum(1).unique()) > 2  # rows end at different steps


@pytest.mark.parametrize(("pursuit", "nonnegative"), [("mp", True), ("omp", False)])
def test_hidden_atoms_are_not_used(pursuit, nonnegative):
    case = small_case()
    visible = torch.tensor([0, 1, 128, 300], device=DEVICE)
    code = run(pursuit, case, nonnegative, visible=visible)
    for sample, seen in enumerate(visible.tolist()):
        if seen == 0:
            assert (code.support[sample] == -1).all()
            continue
        alone = Case(case.x[sample : sample + 1], case.atoms[:seen], case.k)
        row = SparseCode(*(part[sample : sample + 1] for part in code))
        check_against_oracle(pursuit, row, alone, nonnegative, None)


@pursuits
@pytest.mark.parametrize(("nonnegative", "error_threshold"), [(False, 0.2), (True, None)])
def test_paths_and_codes_are_those_of_plain_torch(pursuit, nonnegative, error_threshold):
    case = small_case()
    visible = torch.tensor([0, 300, 150, 299], device=DEVICE)
    path, expected_path = Path.empty(case.x, case.k), Path.empty(case.x, case.k)
    code = run(pursuit, case, nonnegative, error_threshold, path=path, visible=visible)
    expected = in_torch(pursuit, case, nonnegative, error_threshold, expected_path, visible)
    assert torch.equal(code.support, expected.support)
    torch.testing.assert_close(code.coefficients, expected.coefficients, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(path.best, expected_path.best, rtol=1e-5, atol=1e-5)
    came = torch.isfinite(path.best)[:, :, None]  # what later steps hold is of no consequence
    torch.testing.assert_close(path.history * came, expected_path.history * came, rtol=1e-5, atol=1e-5)


@pursuits
def test_blocks_of_rows_change_nothing(pursuit):
    case = small_case()
    visible = torch.tensor([10, 300, 150, 299], device=DEVICE)
    paths = [Path.empty(case.x, case.k) for _ in range(2)]
    whole = run(pursuit, case, path=paths[0], visible=visible)
    parts = run(pursuit, case, path=paths[1], visible=visible, block_bytes=5000)  # three rows, one for omp
    assert torch.equal(whole.support, parts.support)
    torch.testing.assert_close(whole.coefficients, parts.coefficients)
    torch.testing.assert_close(paths[0].best, paths[1].best)
    torch.testing.assert_close(paths[0].history, paths[1].history)


@pursuits
@pytest.mark.parametrize("k", [1, 7])
def test_exact_ties_go_to_the_lowest_index(pursuit, k):
    atoms = torch.eye(4, device=DEVICE).repeat(40, 1)  # over two blocks, with copies in the same lane
    case = Case(torch.tensor([[2.0, -2.0, 2.0, -2.0]], device=DEVICE), atoms, k)
    code = run(pursuit, case)
    assert code.support[0].tolist() == [0, 1, 2, 3, -1, -1, -1][:k]
    assert code.coefficients[0].tolist() == [2.0, -2.0, 2.0, -2.0, 0.0, 0.0, 0.0][:k]


def test_an_orthogonal_pursuit_ends_before_an_atom_that_nearly_is_in_the_span():
    atoms = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 5e-4]], device=DEVICE), dim=1)
    case = Case(torch.tensor([[1.0, 1e-2]], device=DEVICE), atoms, 2)  # the first atom's new direction: 5e-4 squared
    assert run("omp", case).support.tolist() == [[1, -1]]


def test_a_matching_pursuit_may_pick_an_atom_again():
    case = small_case("correlated", n=40, d=3, k=24)
    code = run("mp", case)
    check_against_oracle("mp", code, case, False, None)
    assert (code.l0() < (code.support >= 0).sum(1)).any()


@pursuits
def test_a_gram_in_half_precision_counts_as_its_rounded_entries(pursuit):
    case = small_case(batch=3)
    gram = gram_of(case.atoms).half()
    half, rounded = (on_gram(pursuit, case, entries) for entries in (gram, gram.float()))
    assert torch.equal(half.support, rounded.support)
    assert torch.equal(half.coefficients, rounded.coefficients)


@pursuits
def test_activations_in_half_precision_are_computed_in_single_precision(pursuit):
    case = small_case(batch=3)
    case = Case(case.x.half(), case.atoms, case.k)
    code = run(pursuit, case)
    check_against_oracle(pursuit, code, case, False, None)


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_scores_are_of_full_precision_whatever_other_products_are(precision):
    case = small_case(batch=3)
    gram = gram_of(case.atoms)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
            code = on_gram("mp", case, gram)
            assert torch.is_autocast_enabled(DEVICE.type)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
    check_against_oracle("mp", code, case, False, None)


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED, reason="needs a CUDA device: the interpreter would take hours")
@pursuits
def test_a_large_batch_matches_the_oracle(pursuit, monkeypatch):
    monkeypatch.undo()
    case = small_case(batch=4096, n=16384, d=768, k=32)
    code = on_gram(pursuit, case, gram_of(case.atoms, "contiguous"))
    few = SparseCode(*(part[::512] for part in code))
    check_against_oracle(pursuit, few, Case(case.x[::512], case.atoms, case.k), False, None)
