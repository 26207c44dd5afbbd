"""Unmixing: by its definition, and what holds after it."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from itda_lightning.growth import unmix
from itda_lightning.growth.unmixing import BLOCK, LEAST_LEFT, TIMES


def clustered(n: int, d: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return unit rows around a few centres, so that many are close, and uses with many ties."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(n // 8, d, generator=generator, dtype=torch.float64)
    rows = centres[torch.randint(n // 8, (n,), generator=generator)]
    rows = rows + torch.randn(n, d, generator=generator, dtype=torch.float64)
    return normalize(rows, dim=1), torch.randint(50, (n,), generator=generator)


def by_definition(atoms: Tensor, uses: Tensor, limit: float) -> tuple[Tensor, list[int]]:
    """Return the unmixed atoms and how many projections were subtracted from each."""
    result, times = atoms.clone(), [0] * len(atoms)
    before: list[int] = []
    for atom in sorted(range(len(atoms)), key=lambda atom: (-int(uses[atom]), atom)):
        for _ in range(TIMES):
            if not before:
                break
            cosines = result[before] @ result[atom]
            nearest = int(cosines.argmax())
            left = result[atom] - cosines[nearest] * result[before[nearest]]
            if cosines[nearest] <= limit or left.norm() < LEAST_LEFT:
                break
            result[atom] = left / left.norm()
            times[atom] += 1
        before.append(atom)
    return result, times


@pytest.mark.parametrize(("n", "limit"), [(80, 0.05), (80, 0.35), (80, 0.6), (2 * BLOCK + 30, 0.4)])
def test_it_is_its_definition_and_no_cosine_above_the_limit_is_left(n, limit):
    atoms, uses = clustered(n, 24, n)
    result = unmix(atoms, uses, limit)
    expected, times = by_definition(atoms, uses, limit)
    torch.testing.assert_close(result.atoms, expected, rtol=0, atol=1e-9)
    assert result.changed.tolist() == [time > 0 for time in times]
    assert 0.1 * n < int(result.changed.sum()) < n
    assert torch.equal(result.atoms[~result.changed], atoms[~result.changed])
    rows = result.atoms[uses.argsort(descending=True, stable=True)]
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(n).double(), rtol=0, atol=1e-12)
    largest = (rows @ rows.T).tril(-1).amax(1)
    settled = torch.tensor(times)[uses.argsort(descending=True, stable=True)] < TIMES
    assert float(largest[settled].max()) <= limit + 1e-12
    assert float(settled.double().mean()) > 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_pair_of_features_becomes_the_rarer_one_and_is_stored_as_before(dtype):
    parent, child, other = torch.eye(5)[:3]
    atoms = normalize(torch.stack([parent + child, parent, child + 0.3 * parent, other, -parent]), dim=1).to(dtype)
    result = unmix(atoms, torch.tensor([3, 9, 1, 0, 0]), 0.5)
    assert result.atoms.dtype == dtype
    # The first atom lost the parent; of the third, a mixture of both, nothing but a part against the parent is left.
    torch.testing.assert_close(result.atoms[0].float(), child, rtol=0, atol=1e-2)
    torch.testing.assert_close(result.atoms[2].float(), parent, rtol=0, atol=5e-2)
    assert result.changed.tolist() == [True, False, True, False, False]
    assert torch.equal(result.atoms[[1, 3, 4]], atoms[[1, 3, 4]])


def test_the_first_of_equally_used_atoms_stays():
    atoms = normalize(torch.tensor([[1.0, 1.0], [1.0, 0.0]]), dim=1)
    torch.testing.assert_close(unmix(atoms, torch.tensor([2, 2]), 0.5).atoms[1], torch.tensor([0.5, -0.5]) * 2**0.5)
    torch.testing.assert_close(unmix(atoms, torch.tensor([2, 3]), 0.5).atoms[0], torch.tensor([0.0, 1.0]))


def test_the_same_atom_again_stays_and_so_does_nothing():
    atoms = normalize(torch.randn(3, 9, generator=torch.Generator().manual_seed(0)), dim=1)
    twice = torch.cat([atoms, atoms + 1e-7])
    result = unmix(twice, torch.arange(6), 0.9)
    assert torch.equal(result.atoms, twice)
    assert not result.changed.any()
    assert unmix(atoms[:0], torch.zeros(0, dtype=torch.int64), 0.5).atoms.shape == (0, 9)
