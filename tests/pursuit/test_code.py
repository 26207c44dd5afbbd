"""The sparse code's own arithmetic: dense form, merged re-picks, L0, and the sum of chosen rows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itda_lightning.pursuit import SparseCode, combine


@st.composite
def codes(draw) -> tuple[SparseCode, int]:
    """Codes with re-picks and unused columns, and the number of atoms."""
    batch, k, n = draw(st.integers(0, 4)), draw(st.integers(1, 6)), draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    support = torch.randint(-1, n, (batch, k), generator=generator)
    # Small integers, so that sums are exact in any order.
    coefficients = torch.randint(-9, 10, (batch, k), generator=generator).double().masked_fill(support < 0, 0.0)
    return SparseCode(support, coefficients, torch.rand(batch, generator=generator).double()), n


def dense_by_loops(code: SparseCode, n: int) -> list[list[float]]:
    rows = []
    for support, coefficients in zip(code.support.tolist(), code.coefficients.tolist(), strict=True):
        row = [0.0] * n
        for atom, coefficient in zip(support, coefficients, strict=True):
            if atom >= 0:
                row[atom] += coefficient
        rows.append(row)
    return rows


@given(codes())
def test_dense_sums_repicks(code_and_n):
    code, n = code_and_n
    assert code.to_dense(n).shape == (len(code.support), n)
    assert code.to_dense(n).tolist() == dense_by_loops(code, n)


@given(codes())
def test_distinct_is_the_same_code_with_every_atom_once(code_and_n):
    code, n = code_and_n
    merged = code.distinct()
    assert torch.equal(merged.to_dense(n), code.to_dense(n))
    assert merged.residual_energy is code.residual_energy
    for before, after in zip(code.support.tolist(), merged.support.tolist(), strict=True):
        # A first pick keeps its column; later picks and unused columns are unused.
        assert after == [atom if atom not in before[:column] else -1 for column, atom in enumerate(before)]
    assert (merged.coefficients[merged.support < 0] == 0).all()


@given(codes())
def test_l0_counts_distinct_atoms(code_and_n):
    code, _ = code_and_n
    assert code.l0().tolist() == [len(set(row) - {-1}) for row in code.support.tolist()]


@given(codes(), st.integers(1, 4))
def test_combine_is_the_product_with_the_dense_code(code_and_n, d):
    code, n = code_and_n
    rows = torch.arange(n * d, dtype=torch.float64).reshape(n, d)
    assert torch.equal(combine(code.support, code.coefficients, rows), code.to_dense(n) @ rows)


@pytest.mark.parametrize(("k", "n"), [(0, 3), (2, 0)])
def test_combine_of_nothing_is_zero(k, n):
    combined = combine(torch.full((2, k), -1), torch.zeros(2, k), torch.zeros(n, 5))
    assert torch.equal(combined, torch.zeros(2, 5))


def test_combine_ignores_the_coefficients_of_unused_columns():
    combined = combine(torch.tensor([[1, -1]]), torch.tensor([[2.0, 7.0]]), torch.eye(2))
    assert combined.tolist() == [[0.0, 2.0]]


@given(codes(), st.integers(1, 300), st.sampled_from([128, 384, 1024, 1000]))
def test_combine_reads_a_part_of_a_larger_matrix_in_place(code_and_n, width, stride):
    code, n = code_and_n
    whole = torch.full((n + 2, max(width, stride)), torch.nan, dtype=torch.float64)
    rows = whole[:n, :width]
    rows[:] = torch.arange(n * width, dtype=torch.float64).reshape(n, width)
    assert torch.equal(combine(code.support, code.coefficients, rows), code.to_dense(n) @ rows.clone())
