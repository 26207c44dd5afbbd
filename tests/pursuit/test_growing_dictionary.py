"""What growth asks of a pursuit: corners of larger Grams, samples that see the first atoms only, paths of its steps."""

import pytest
import torch
from torch.nn import functional

from itda_lightning.pursuit import Path, PreparedAtoms, combine, pursue
from tests.pursuit.cases import unit_rows
from tests.pursuit.forms import DTYPES, forms, prepare

PURSUITS = [("mp", False), ("mp", True), ("omp", False), ("omp", True)]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("whole", "part"), [(4096, 1500), (256, 1), (256, 200), (384, 384), (128, 5), (1000, 700), (1152, 1151)]
)
def test_a_corner_of_a_matrix_is_combined_as_its_copy(whole, part, first):
    matrix = random(whole, whole)
    corner = matrix[:part, :part] if first else matrix[-part:, -part:]
    support = torch.randint(0, part, (7, 5), generator=torch.Generator().manual_seed(1))
    support[0, 3:], support[-1] = -1, part - 1
    weights = random(7, 5)
    expected = functional.embedding_bag(
        support.clamp(min=0), corner.contiguous(), mode="sum", per_sample_weights=weights.masked_fill(support < 0, 0)
    )
    assert torch.equal(combine(support, weights, corner), expected)
    assert combine(support[:0], weights[:0], corner).shape == (0, part)


@forms
@pytest.mark.parametrize(("pursuit", "nonnegative"), PURSUITS)
def test_a_sample_that_sees_some_atoms_is_coded_as_if_there_were_no_others(pursuit, nonnegative, form):
    atoms, x = unit_rows(random(200, 12)).to(DTYPES[form]), random(201, 12, seed=1).to(DTYPES[form])
    visible = torch.arange(201).flip(0)
    prepared, path = prepare(atoms, form), Path.empty(x, 6)
    together = pursue(pursuit, x, prepared, 6, nonnegative, 0.05)
    code = pursue(pursuit, x, prepared, 6, nonnegative, 0.05, path, visible)
    for row, n in list(enumerate(visible.tolist()))[::20]:
        own = Path.empty(x[:1], 6)
        alone = pursue(pursuit, x[row : row + 1], prepare(atoms[:n], form), 6, nonnegative, 0.05, own)
        assert torch.equal(code.support[row], alone.support[0])
        torch.testing.assert_close(code.coefficients[row], alone.coefficients[0])
        torch.testing.assert_close(code.residual_energy[row], alone.residual_energy[0])
        if n:
            torch.testing.assert_close(path.best[row], own.best[0])
            came_to = torch.isfinite(own.best[0])
            torch.testing.assert_close(path.history[row][came_to], own.history[0][came_to])
    assert not torch.equal(code.support, together.support)


@forms
@pytest.mark.parametrize(("pursuit", "nonnegative"), PURSUITS)
def test_a_path_tells_which_further_atoms_would_have_been_chosen(pursuit, nonnegative, form):
    dtype = DTYPES[form]
    atoms, x, further = unit_rows(random(30, 10)), random(50, 10, seed=1), unit_rows(random(20, 10, seed=2))
    atoms, x, further = atoms.to(dtype), x.to(dtype), further.to(dtype)
    path = Path.empty(x, 5)
    code = pursue(pursuit, x, prepare(atoms, form), 5, nonnegative, 0.02, path)
    told = path.changed_by(x @ further.T, further @ atoms.T, code.support, nonnegative)
    for index, atom in enumerate(further):
        more = torch.cat([atoms, atom[None]])
        after = pursue(pursuit, x, prepare(more, form), 5, nonnegative, 0.02)
        chosen = (after.support == 30).any(1)
        # Non-negative orthogonal pursuit may turn down the atom that won, and then ends where it would have gone on.
        changed = (after.support != code.support).any(1)
        assert torch.equal(told[:, index] & changed, changed)
        if (pursuit, nonnegative) != ("omp", True):
            assert torch.equal(told[:, index], chosen)
    assert 0.05 < float(told.float().mean()) < 0.95


def test_any_atom_would_be_the_first_of_an_empty_dictionary():
    x = torch.tensor([[3.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    path = Path.empty(x, 2)
    code = pursue("mp", x, PreparedAtoms(x, 0), 2, path=path)
    atoms = torch.eye(2, dtype=torch.float64)
    told = path.changed_by(x @ atoms.T, torch.zeros(2, 1, dtype=torch.float64), code.support, False)
    assert told.tolist() == [[True, False], [False, False]]
