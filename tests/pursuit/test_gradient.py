"""Derivatives of codes on their support, against those of the recursion and of least squares written out."""

import pytest
import torch

from itda_lightning.pursuit import gradient
from itda_lightning.pursuit.gradient import differentiable

SUPPORT = torch.tensor([[3, 5, 2], [1, 2, -1], [-1, -1, -1]])
RE_PICK = torch.tensor([[3, 5, 3], [1, 1, -1], [0, -1, -1]])


def written_out(support, x, rows, least_squares):
    """The coefficients on a support in plain torch, one activation at a time."""
    codes = []
    for activation, chosen in zip(x, support, strict=True):
        atoms = rows[chosen[chosen >= 0]]
        if least_squares:
            code = torch.linalg.solve(atoms @ atoms.T, atoms @ activation)
        else:
            steps, residual = [], activation
            for atom in atoms:
                steps.append(residual @ atom / (atom @ atom))
                residual = residual - steps[-1] * atom
            code = torch.stack(steps) if steps else activation[:0]
        codes.append(torch.cat([code, code.new_zeros(len(chosen) - len(code))]))
    return torch.stack(codes)


def problem(support, least_squares):
    generator = torch.Generator().manual_seed(0)
    x, rows = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (3, 9))
    coefficients = written_out(support, x, rows, least_squares)
    return coefficients, x.requires_grad_(), rows.requires_grad_()


CASES = [(SUPPORT, True), (SUPPORT, False), (RE_PICK, False)]
NAMES = ["least squares", "matching pursuit", "re-picks"]


@pytest.mark.parametrize(("support", "least_squares"), CASES, ids=NAMES)
@pytest.mark.parametrize("entries", [gradient.BLOCK_ENTRIES, 1], ids=["at once", "row by row"])
def test_gradients_are_those_of_the_formula_written_out(support, least_squares, entries, monkeypatch):
    monkeypatch.setattr(gradient, "BLOCK_ENTRIES", entries)
    coefficients, x, rows = problem(support, least_squares)
    result = differentiable(support, coefficients, x, rows, least_squares)
    assert torch.equal(result, coefficients)
    weights = torch.arange(1.0, 10.0, dtype=torch.float64).reshape(3, 3)
    expected = torch.autograd.grad((written_out(support, x, rows, least_squares) * weights).sum(), (x, rows))
    for got, wanted in zip(torch.autograd.grad((result * weights).sum(), (x, rows)), expected, strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize(("support", "least_squares"), CASES, ids=NAMES)
def test_second_derivatives_and_directional_ones(support, least_squares):
    coefficients, x, rows = problem(support, least_squares)
    weights = torch.arange(1.0, 10.0, dtype=torch.float64).reshape(3, 3)

    def slope(code):
        of_x, of_rows = torch.autograd.grad((code.square() * weights).sum(), (x, rows), create_graph=True)
        return torch.autograd.grad(of_x.square().sum() + of_rows.square().sum(), (x, rows))

    expected = slope(written_out(support, x, rows, least_squares))
    for got, wanted in zip(slope(differentiable(support, coefficients, x, rows, least_squares)), expected, strict=True):
        torch.testing.assert_close(got, wanted)
    tangents = torch.ones_like(x), torch.ones_like(rows)
    values = x.detach(), rows.detach()
    wanted = torch.func.jvp(lambda x, rows: written_out(support, x, rows, least_squares), values, tangents)[1]
    got = torch.func.jvp(
        lambda x, rows: differentiable(support, coefficients, x, rows, least_squares), values, tangents
    )[1]
    torch.testing.assert_close(got, wanted)


def test_only_what_is_of_the_size_of_a_code_is_saved():
    support = torch.zeros(40, 8, dtype=torch.int64).add(torch.arange(8))
    x, rows = torch.randn(40, 64, requires_grad=True), torch.randn(100, 64, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        differentiable(support, torch.ones(40, 8), x, rows, True)
    new = [tensor for tensor in saved if tensor is not x and tensor is not rows]
    assert {tensor.numel() for tensor in new if tensor.data_ptr() not in (x.data_ptr(), rows.data_ptr())} == {40 * 8}


def test_half_precision_gets_gradients_in_its_own_dtype():
    x, rows = (torch.randn(n, 6, dtype=torch.bfloat16, requires_grad=True) for n in (3, 9))
    differentiable(SUPPORT, torch.ones(3, 3), x, rows, False).sum().backward()
    assert x.grad.dtype == rows.grad.dtype == torch.bfloat16
    assert torch.isfinite(rows.grad).all()


def test_derivatives_are_computed_for_a_block_at_a_time_unless_a_graph_is_traced(monkeypatch):
    """A graph is for batches of any size, so it has no loop over blocks."""
    monkeypatch.setattr(gradient, "BLOCK_ENTRIES", 70)
    support, x = torch.zeros(5, 3, dtype=torch.int64), torch.zeros(5, 10)
    assert list(gradient._blocks(support, x)) == [slice(0, 2), slice(2, 4), slice(4, 6)]
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert list(gradient._blocks(support, x)) == [slice(None)]
