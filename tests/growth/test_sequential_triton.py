"""Sequential growth as it runs on a GPU: blocks whose pursuits are the Triton kernel's, here in its interpreter."""

import sys

import pytest
import torch

if sys.platform != "linux":  # there a broken installation is a failure
    pytest.skip("Triton is there on Linux only", allow_module_level=True)

from itda_lightning.growth import GrowthRule, grow_sequential
from itda_lightning.growth import sequential as module
from itda_lightning.pursuit import PURSUITS, SparseCode, cuda, pursue
from itda_lightning.pursuit.problem import Problem
from tests.growth.naive import mixtures
from tests.growth.test_sequential import assert_grown_as, grow_one_by_one
from tests.pursuit.forms import with_room

CUDA = torch.cuda.is_available()


@pytest.fixture
def by_triton(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let growth encode by the kernel, wherever there is an atom; return the batches that it encodes from then on."""
    encoded: list[int] = []
    monkeypatch.setattr(cuda, "BLOCK", 128)

    def encode(name, x, prepared, k, nonnegative, shares, path, visible) -> SparseCode:
        if prepared.n == 0 or len(x) == 0:
            return pursue(name, x, prepared, k, nonnegative, shares, path, visible)
        encoded.append(len(x))
        return cuda.encode(PURSUITS[name], Problem(x, k, nonnegative, shares, path, visible), prepared)

    monkeypatch.setattr(module, "pursue", encode)
    return encoded


@pytest.mark.skipif(CUDA, reason="there pursuits on the device take the kernel by themselves")
@pytest.mark.parametrize(
    ("pursuit", "nonnegative", "threshold", "exponent", "start", "capacity"),
    [
        ("mp", False, 0.15, 1.0, 0, 40),
        ("mp", True, 0.15, 0.85, 4, 40),
        ("omp", False, 0.1, 0.0, 4, 40),
        ("omp", True, 1e-4, 0.5, 0, 9),  # full in the middle
        ("omp", False, 1e-5, 1.0, 2, 40),
    ],
)
def test_growth_by_the_kernel_is_that_of_single_activations(
    by_triton, pursuit, nonnegative, threshold, exponent, start, capacity
):
    x = mixtures(24, 8, seed=3, dtype=torch.float32)
    x[9:12] = 2 * x[6:9] + 0.01 * x[9:12].abs()  # near-duplicates
    atoms, x = torch.nn.functional.normalize(x[:start], dim=1), x[start:]
    rule = GrowthRule(3, pursuit, nonnegative, threshold, exponent, float(x.square().sum(1).median()))
    grown = grow_sequential(x, with_room(atoms, capacity, "torch gram"), rule)
    assert_grown_as(grow_one_by_one(x, atoms, capacity, rule, grown.accepted.tolist()), grown, x)
    assert sum(by_triton) > len(x) // 2
    assert 3 < len(grown.accepted) <= capacity - start
    if capacity < 20:
        assert len(grown.accepted) == capacity
