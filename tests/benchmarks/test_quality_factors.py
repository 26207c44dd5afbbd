"""The cells of the study in benchmarks/quality: each builds the dictionary that it says it builds."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from benchmarks.quality import factors
from itda_lightning.growth import GrowthRule, calibration
from itda_lightning.pursuit import PreparedAtoms, pursue
from tests.growth.naive import mixtures


@pytest.fixture(scope="module")
def x():
    return 3 + mixtures(600, 16, seed=0, dtype=torch.float32)


@pytest.fixture(autouse=True)
def rough_calibration(monkeypatch):
    """Six steps bring a threshold within a tenth, near enough for dictionaries of 30 atoms."""
    monkeypatch.setattr(calibration, "MOST_FORECASTS", 6)


# At one small size the cells that differ in size only are one.
SMALL = {replace(cell, n=30, k=4): name for name, cell in reversed(factors.FACTORS.items())}


@pytest.fixture(scope="module")
def thresholds():
    """Thresholds calibrated for one cell serve those after it, as in the study."""
    return {}


@pytest.mark.parametrize("cell", list(SMALL), ids=list(SMALL.values()))
def test_every_cell_gives_unit_atoms_and_codes_that_explain_most(x, thresholds, cell):
    x = x[:200]
    built = factors.build(cell, x, 1, thresholds)
    assert 10 < built.prepared.n <= 30
    torch.testing.assert_close(built.prepared.atoms.norm(dim=1), torch.ones(built.prepared.n))
    code, x_hat = factors.encode(cell, built, x)
    assert float((x - x_hat).square().sum() / (x - x.mean(0)).square().sum()) < (0.9 if cell.center == "none" else 0.5)
    limit = 8 if cell.by_error else 4
    assert int(code.l0().max()) <= limit


def test_a_seed_gives_one_dictionary(x):
    for growth in ("random", "in proportion to error"):
        cell = replace(factors.BASE, n=60, k=4, growth=growth)
        same, other = (factors.build(cell, x, seed).prepared.atoms for seed in (1, 2))
        assert torch.equal(same, factors.build(cell, x, 1).prepared.atoms)
        assert not torch.equal(same, other)


def test_codes_by_error_have_k_atoms_on_average():
    x = 3 + mixtures(1000, 16, seed=0, dtype=torch.float32)
    cell = replace(factors.BASE, n=60, k=4, by_error=True)
    unseen = x[600:]
    built = factors.at_mean_l0(cell, factors.build(cell, x[:600], seed=0), unseen)
    lengths = factors.encode(cell, built, unseen)[0].l0().double()
    assert 3.95 < float(lengths.mean()) <= 4
    assert float(lengths.std()) > 0.5


def test_pruning_keeps_the_atoms_that_are_used_most(x):
    centred = x - x.mean(0)
    atoms = normalize(centred[:40], dim=1)
    prepared = PreparedAtoms(torch.cat([atoms, torch.zeros(10, 16)]), 40)
    prepared.build_gram()
    support = pursue("mp", centred, PreparedAtoms(atoms, 40), 3).support
    counts = [int((support == atom).sum()) for atom in range(40)]
    factors.prune(centred, prepared, GrowthRule(3, "mp", False, 0.1))
    assert prepared.n == 30
    dropped = [a for a in range(40) if not bool((prepared.atoms == atoms[a]).all(1).any())]
    assert len(dropped) == 10
    assert max(counts[a] for a in dropped) <= min(counts[a] for a in range(40) if a not in dropped)


def test_the_geometric_median_is_not_moved_by_one_huge_activation(x):
    moved = torch.cat([x, torch.full((1, 16), 1e6)])
    median = factors.centre_of(moved, "geometric median")
    assert float((median - factors.centre_of(x, "geometric median")).norm()) < 0.1
    assert float((factors.centre_of(moved, "mean") - factors.centre_of(x, "mean")).norm()) > 100


def test_orders_are_permutations(x):
    generator = torch.Generator().manual_seed(0)
    for order in ("rows", "shuffled", "largest first", "smallest first"):
        assert torch.equal(factors.order_of(x, order, generator).sort().values, torch.arange(len(x)))
    energy = x.square().sum(1)[factors.order_of(x, "largest first", generator)]
    assert bool((energy.diff() <= 0).all())
