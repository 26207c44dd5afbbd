"""A device that runs out of memory in the middle: blocks shrink, and the codes are those of enough memory.

The device is the CPU, on which one operation raises what CUDA raises as long as a block is too large.
"""

import sys

import pytest
import torch

import itda_lightning as il
from itda_lightning.pursuit import PURSUITS, correlation, pruning
from itda_lightning.pursuit.problem import Problem
from tests.pursuit.cases import make_case

MOST = 8  # rows that fit


def failing_above(operation, most, rows_of):
    """Return an operation that runs out of memory with more rows, and the numbers of rows that it was called with."""
    called = []

    def limited(*arguments, **options):
        called.append(rows_of(*arguments))
        if called[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return operation(*arguments, **options)

    return limited, called


@pytest.mark.parametrize("pursuit", [il.matching_pursuit, il.orthogonal_matching_pursuit])
@pytest.mark.parametrize("threshold", [None, 0.3])
def test_codes_in_plain_torch(monkeypatch, pursuit, threshold):
    case = make_case("random", batch=37, n=60, d=16, k=5, scale=3.0, seed=1)
    expected = pursuit(case.x, case.atoms, case.k, error_threshold=threshold)
    limited, called = failing_above(correlation.correlate, MOST, lambda x, *_: len(x))
    monkeypatch.setattr(correlation, "correlate", limited)
    code = pursuit(case.x, case.atoms, case.k, error_threshold=threshold)
    assert max(called) > MOST
    assert torch.equal(code.support, expected.support)
    for values, others in zip(code[1:], expected[1:], strict=True):  # products of float64 round by their shape
        torch.testing.assert_close(values, others, rtol=1e-12, atol=1e-12)


def test_pruned_codes_have_the_same_bits(monkeypatch):
    case = make_case("random", batch=37, n=60, d=16, k=5, scale=3.0, seed=2)
    code = il.orthogonal_matching_pursuit(case.x, case.atoms, case.k)
    expected = il.prune(code, case.x, case.atoms, 0.05)
    limited, called = failing_above(pruning.prune_chosen, MOST, lambda part, *_: len(part.support))
    monkeypatch.setattr(pruning, "prune_chosen", limited)
    pruned = il.prune(code, case.x, case.atoms, 0.05)
    assert called[0] == 37
    assert all(torch.equal(values, others) for values, others in zip(pruned, expected, strict=True))


def test_without_room_for_one_activation_it_is_said(monkeypatch):
    case = make_case("random", batch=5, n=60, d=16, k=3, scale=3.0, seed=1)
    limited, called = failing_above(correlation.correlate, 0, lambda x, *_: len(x))
    monkeypatch.setattr(correlation, "correlate", limited)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        il.matching_pursuit(case.x, case.atoms, case.k)
    assert called[-1] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="Triton is there on Linux only")
@pytest.mark.parametrize("pursuit", ["mp", "omp"])
def test_codes_of_the_kernel_have_the_same_bits(monkeypatch, pursuit):
    from itda_lightning.pursuit import cuda
    from tests.pursuit.test_triton import DEVICE, gram_of, small_case

    case = small_case(batch=44, n=130)
    gram, problem, orthogonal = gram_of(case.atoms), Problem(case.x, case.k), PURSUITS[pursuit].orthogonal
    monkeypatch.setattr(cuda, "BLOCK", 128)
    monkeypatch.setattr(cuda, "UNIT", MOST)
    expected = cuda.gram_pursuit(orthogonal, problem, case.atoms, gram)
    limited, called = failing_above(cuda._run, 2 * MOST, lambda _, block, *__: len(block.x))
    monkeypatch.setattr(cuda, "_run", limited)
    code = cuda.gram_pursuit(orthogonal, problem, case.atoms, gram)
    assert called[-1] <= 2 * MOST < called[0]
    assert code.support.device.type == DEVICE.type
    assert all(torch.equal(values, others) for values, others in zip(code, expected, strict=True))


@pytest.mark.parametrize(("pursuit", "needed"), [("mp", 4 * 400_000), ("omp", 4 * 400_000), ("gomp", 8 * 400_256)])
def test_a_budget_below_what_one_activation_takes(pursuit, needed):
    message = (
        rf"^memory_budget is 1,048,576 bytes, but one activation takes {needed:,} with 400,000 atoms and k 8: raise it"
    )
    with pytest.raises(il.InputError, match=message):
        PURSUITS[pursuit].check_budget(2**20, 400_000, 16, 8)
    PURSUITS[pursuit].check_budget(needed, 400_000, 16, 8)
