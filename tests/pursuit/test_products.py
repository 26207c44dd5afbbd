"""The best atoms of a step are those of exact scores, however products were rounded within their bound."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from itda_lightning.pursuit import PURSUITS
from itda_lightning.pursuit.compiled import kernel_problem
from itda_lightning.pursuit.kernels import products
from itda_lightning.pursuit.kernels.named_arrays import Choice, Products, Progress
from itda_lightning.pursuit.prepared import PreparedAtoms
from itda_lightning.pursuit.problem import Problem

BITS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}
K = 4


def select(
    x: Tensor, atoms: Tensor, screened: Tensor, error: float, width: int, nonnegative: bool, used: Tensor, parts: int
) -> Choice:
    """Return the best atoms and their scores, of screened products that come in parts; ``used`` is hidden."""
    pursuit, batch = PURSUITS["omp"], len(x)
    problem = kernel_problem(pursuit, Problem(x, K, nonnegative), PreparedAtoms(atoms, len(atoms)))
    support = torch.full((batch, K), -1)
    support[:, : used.shape[1]] = used
    energy = x.double().square().sum(1).numpy()
    progress = Progress(
        np.arange(batch),
        np.ones(batch, np.bool_),
        support.numpy(),
        np.zeros((batch, K)),
        energy,
        x.numpy(),
        energy * 0,
        np.zeros((batch, K, K)),
        np.zeros((batch, K)),
    )
    choice = Choice(np.full((batch, width), -1), np.zeros((batch, width)))
    bound = np.full(batch, error, np.float32)
    size = -(-len(atoms) // parts)
    for first in range(0, len(atoms), size):
        part = screened[:, first : first + size].contiguous()
        bits = part.view(BITS[part.dtype]).numpy()
        products.select(0, batch, problem, Products(bits, bound, 0.0, first, used.shape[1] > 0), progress, choice)
    return choice


@pytest.mark.parametrize("dtype", list(BITS), ids=str)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(K, 700),
    width=st.integers(1, 3),
    nonnegative=st.booleans(),
    hidden=st.booleans(),
    parts=st.integers(1, 3),
    error=st.sampled_from([0.0, 1.0, 30.0]),
)
def test_the_best_atoms_are_found_in_spite_of_errors(dtype, seed, n, width, nonnegative, hidden, parts, error):
    # Whole numbers: exact scores are exact in every precision, and there are many ties, which the lowest index wins.
    generator = torch.Generator().manual_seed(seed)
    x, atoms = (torch.randint(-3, 4, (rows, 6), generator=generator).float() for rows in (3, n))
    exact = x @ atoms.T
    noise = error * (2 * torch.rand(exact.shape, generator=generator) - 1)
    screened = (exact + noise).round().to(dtype)
    used = torch.randint(0, n, (3, 2 if hidden else 0), generator=generator)
    choice = select(x, atoms, screened, float((screened.float() - exact).abs().max()), width, nonnegative, used, parts)
    score = exact if nonnegative else exact.abs()
    score = score.scatter(1, used, -1.0)
    best = score.sort(dim=1, descending=True, stable=True)
    expected = best.values[:, :width].clamp(min=0)
    assert choice.scores.tolist() == expected.tolist()
    assert ((torch.from_numpy(choice.atoms) == best.indices[:, :width]) | (expected <= 0)).all()
