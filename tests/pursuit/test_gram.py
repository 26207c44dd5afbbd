"""A Gram that grew is, bit for bit, the Gram that was built at once: what makes a resumed fit identical."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from itda_lightning.pursuit.gram import TILE, UNIT, as_entries, padded, update_gram


def atoms_of(n: int, d: int, capacity: int, dtype: torch.dtype = torch.float32) -> Tensor:
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(n * 1000 + d))
    return torch.cat([torch.nn.functional.normalize(rows, dim=1), torch.zeros(capacity - n, d)]).to(dtype)


def grown(atoms: Tensor, stops: list[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """The Gram grown in steps, as the buffer of atoms fills; rows beyond a stop are not there yet."""
    gram = torch.zeros(len(atoms), len(atoms), dtype=dtype)
    start = 0
    for stop in stops:
        present = atoms.clone()
        present[stop:] = 0
        update_gram(gram, present, start, stop)
        start = stop
    return gram


def assert_right(gram: Tensor, atoms: Tensor, n: int) -> None:
    values, error = (gram.double() * UNIT, UNIT / 2 + 1e-6) if gram.dtype == torch.int16 else (gram.double(), 1e-6)
    torch.testing.assert_close(values, atoms.double() @ atoms.double().T, rtol=0, atol=error)
    assert (gram[n:] == 0).all()
    assert torch.equal(gram, gram.T)


@pytest.mark.parametrize("d", [7, 576])
@pytest.mark.parametrize("n", [1, TILE - 1, TILE, TILE + 1, 2 * TILE + 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int16])
def test_a_gram_grown_atom_by_atom_is_the_one_built_at_once(n, d, dtype):
    atoms = atoms_of(n, d, padded(n))
    built = grown(atoms, [n], dtype)
    assert torch.equal(grown(atoms, list(range(1, n + 1)), dtype), built)
    assert_right(built, atoms, n)


@given(
    steps=st.lists(st.integers(0, 200), min_size=1, max_size=8),
    d=st.integers(1, 80),
    spare=st.integers(0, 2),
)
def test_any_schedule_of_growth_gives_the_same_bits(steps, d, spare):
    stops = torch.tensor(steps).cumsum(0).tolist()
    n = stops[-1]
    atoms = atoms_of(n, d, padded(n) + spare * TILE)
    assert torch.equal(grown(atoms, stops), grown(atoms, [n]))


@pytest.mark.parametrize("capacity", [1, 100, 200, 300])
def test_growth_in_a_capacity_that_is_no_multiple_of_the_tile(capacity):
    atoms = atoms_of(capacity, 33, capacity)
    built = grown(atoms, [capacity])
    assert torch.equal(grown(atoms, list(range(1, capacity + 1))), built)
    assert_right(built, atoms, capacity)


def test_room_for_more_atoms_does_not_change_the_bits():
    small, large = grown(atoms_of(150, 40, 256), [150]), grown(atoms_of(150, 40, 1024), [150])
    assert torch.equal(small[:150, :150], large[:150, :150])


def test_a_gram_of_half_precision_atoms_is_computed_in_its_own_precision():
    atoms = atoms_of(50, 64, 128, torch.bfloat16)
    assert_right(grown(atoms, [50]), atoms, 50)


def test_nothing_is_done_when_nothing_was_added():
    gram = torch.full((128, 128), 7.0)
    update_gram(gram, torch.zeros(128, 3), 128, 128)
    assert (gram == 7).all()


@pytest.mark.parametrize(("n", "expected"), [(0, 0), (1, 128), (128, 128), (129, 256)])
def test_padded_rounds_up_to_whole_tiles(n, expected):
    assert padded(n) == expected


def test_sixteen_bits_hold_the_inner_products_of_nearly_unit_rows():
    products = torch.tensor([[1.0201, -1.0201], [0.5, -1e-6]])
    entries = as_entries(products, torch.int16)
    assert entries.dtype == torch.int16
    torch.testing.assert_close(entries * UNIT, products, rtol=0, atol=UNIT / 2 + 1e-7)
