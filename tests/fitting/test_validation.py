"""Validation: figures over all held-out activations at once, whatever the batches."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.fitting.validation import ValidationSums


def problem(n: int = 30, d: int = 8, atoms: int = 20, pursuit: str = "mp", seed: int = 0, offset: float = 10.0):
    generator = torch.Generator().manual_seed(seed)
    unit = torch.nn.functional.normalize(torch.randn(atoms, d, generator=generator), dim=1)
    mean = offset * torch.randn(d, generator=generator)
    dictionary = Dictionary(unit, mean + 0.3, k=3, pursuit=pursuit)
    scales = torch.linspace(0.1, 20, n)[:, None]
    return dictionary, mean + scales * torch.randn(n, d, generator=generator)


def in_one_go(dictionary: Dictionary, x: Tensor) -> dict[str, float]:
    code = dictionary.encode(x)
    dense = code.to_dense(dictionary.n_atoms).double().numpy()
    wide, atoms, bias = (part.double().numpy() for part in (x, dictionary.atoms, dictionary.bias))
    x_hat = dense @ atoms + bias
    used = [set(row[row >= 0].tolist()) for row in code.support]
    return {
        "fvu": np.square(wide - x_hat).sum() / np.square(wide - wide.mean(0)).sum(),
        "l0": float(np.mean([len(atoms) for atoms in used])),
        "dead_atoms": dictionary.n_atoms - len(set.union(*used)),
        "validation_activations": len(x),
    }


def in_batches(dictionary: Dictionary, x: Tensor, *sizes: int) -> dict[str, float]:
    sums = ValidationSums(dictionary)
    for part in x.split(list(sizes)):
        sums.update(part)
    return sums.compute()


@pytest.mark.parametrize("pursuit", ["mp", "omp", "gomp"])
@pytest.mark.parametrize("offset", [0.0, 10.0, 1000.0])
def test_the_definitions_in_double_precision(pursuit, offset):
    dictionary, x = problem(200, pursuit=pursuit, offset=offset)
    metrics = in_batches(dictionary, x, *[50] * 4)
    # Single precision rounds x itself: at an offset of 1,000 by 1e-4 of the smallest activations.
    assert metrics == pytest.approx(in_one_go(dictionary, x), rel=1e-5 if offset < 1000 else 1e-4)
    assert 0.01 < metrics["fvu"] < 0.9


@given(cuts=st.lists(st.integers(0, 60), max_size=5))
def test_batches_change_nothing(cuts):
    dictionary, x = problem(60)
    edges = sorted([0, 60, *cuts])
    sizes = [stop - start for start, stop in pairwise(edges)]
    assert in_batches(dictionary, x, *sizes) == pytest.approx(in_batches(dictionary, x, 60), rel=1e-6)


def test_it_is_a_ratio_of_sums_and_no_mean_of_ratios():
    dictionary = Dictionary(torch.eye(2)[:1], k=1)
    # Explained in full, with little variance; not explained at all, with much.
    little, much = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([[0.0, 10.0], [0.0, -10.0]])
    assert in_batches(dictionary, torch.cat([little, much]), 2, 2)["fvu"] == pytest.approx(200 / 202)


def test_an_atom_that_is_picked_again_counts_once():
    atoms = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.2]]), dim=1)
    dictionary = Dictionary(atoms, k=8)
    x = torch.tensor([[0.3, 1.0]])
    assert len(dictionary.encode(x).support[0].unique()) == 2
    assert in_batches(dictionary, x, 1)["l0"] == 2


def test_dead_atoms_are_those_of_no_code():
    dictionary = Dictionary(torch.eye(5), k=2)
    x = torch.zeros(3, 5)
    x[0, 1], x[1, 3], x[2, 3], x[2, 4] = 1.0, 2.0, 3.0, 4.0
    metrics = in_batches(dictionary, x, 1, 2)
    assert metrics["dead_atoms"] == 2
    assert metrics["l0"] == pytest.approx(4 / 3)


def test_an_empty_dictionary_explains_nothing_but_the_bias():
    dictionary = Dictionary(torch.zeros(0, 3), torch.ones(3), k=2, capacity=4)
    x = torch.tensor([[1.0, 1.0, 3.0], [1.0, 1.0, -1.0]])
    assert in_batches(dictionary, x, 2) == {"fvu": 1.0, "l0": 0.0, "dead_atoms": 0, "validation_activations": 2}


def test_no_activations_and_no_variance():
    dictionary = Dictionary(torch.eye(3), k=1)
    assert ValidationSums(dictionary).compute()["validation_activations"] == 0
    assert in_batches(dictionary, torch.tensor([[2.0, 0.0, 0.0]]), 1)["fvu"] == 0.0
