"""Atoms stored in bfloat16: computed with as they are, in sums of single precision, and never copied whole."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.growth import GROWTH_POLICIES, GrowthRule
from itda_lightning.pursuit import PreparedAtoms, combine, correlate, matching_pursuit, pursue
from itda_lightning.pursuit.coarse import half_products_pay
from itda_lightning.pursuit.gram import padded
from tests.pursuit.cases import Case, make_case, unit_rows
from tests.pursuit.forms import forms, prepare
from tests.pursuit.test_against_oracle import assert_matches_oracle

pursuits = pytest.mark.parametrize("pursuit", ["mp", "omp"])


@pytest.fixture
def small_parts(monkeypatch):
    """What works in parts of the atoms takes small ones; what is measured once was measured before."""
    monkeypatch.setattr("itda_lightning.pursuit.correlation.WIDENED_BYTES", 2**18)
    monkeypatch.setattr("itda_lightning.pursuit.public.CHECKED_ENTRIES", 2**15)
    half_products_pay()


class LargestTensor(TorchDispatchMode):
    """Remembers the bytes of the largest tensor that was made, views of the given one apart."""

    def __init__(self, given: Tensor) -> None:
        super().__init__()
        self.given, self.bytes = given.untyped_storage().data_ptr(), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() != self.given:
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return result


@pursuits
@forms
def test_sums_are_in_single_precision(pursuit, form):
    # In sums of bfloat16 a thousand terms would lose two digits, and other atoms would win.
    case = make_case("random", 20, 500, 1000, 12, 10.0, 0)
    case = Case(case.x.float(), case.atoms.to(torch.bfloat16), case.k)
    prepared = prepare(case.atoms, form)
    assert prepared.rows.dtype == torch.bfloat16
    code = pursue(pursuit, case.x, prepared, case.k)
    assert code.coefficients.dtype == torch.float32
    assert_matches_oracle(pursuit, code, case, False, None)
    wide = pursue(pursuit, case.x, prepare(case.atoms.float(), form), case.k)
    assert torch.equal(code.support, wide.support)
    torch.testing.assert_close(code.coefficients, wide.coefficients, rtol=1e-5, atol=1e-5)


def test_products_and_combinations_are_those_of_widened_rows(monkeypatch):
    monkeypatch.setattr("itda_lightning.pursuit.correlation.WIDENED_BYTES", 4 * 16 * 7)
    case = make_case("random", 5, 40, 16, 3, 1.0, 0)
    x, atoms = case.x.float(), case.atoms.to(torch.bfloat16)
    torch.testing.assert_close(correlate(x, atoms), x @ atoms.float().T)
    support = torch.tensor([[3, -1, 39], [0, 0, 7], [-1, -1, -1], [5, 6, 7], [1, 2, 3]])
    weights = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    combined = combine(support, weights, atoms)
    assert combined.dtype == torch.float32
    torch.testing.assert_close(combined, combine(support, weights, atoms.float()))


def test_the_gram_is_kept_where_it_fits_beside_atoms_that_need_no_copy():
    n, d = 1500, 256
    atoms = unit_rows(torch.randn(n, d, generator=torch.Generator().manual_seed(0)))
    gram = n * padded(n) * 2
    enough = int(gram / 0.75) + 1
    for dtype, budget, has_gram in (
        (torch.bfloat16, enough, True),
        (torch.bfloat16, enough - 10, False),
        (torch.float32, enough, False),  # its copy in bfloat16 counts
        (torch.float32, enough + int(2 * n * d / 0.75), True),
    ):
        prepared = PreparedAtoms(atoms.to(dtype), n, budget, half=True)
        prepared.build_gram()
        assert prepared.coarse.used
        assert (prepared.gram is not None) == has_gram


@pursuits
@pytest.mark.parametrize("half", [True, False])
def test_encoding_and_growth_make_no_copy_of_the_atoms(pursuit, half, small_parts):
    n, d, budget, k = 8192, 256, 2**21, 4
    generator = torch.Generator().manual_seed(0)
    atoms = unit_rows(torch.randn(n, d, generator=generator)).to(torch.bfloat16)
    x = torch.randn(48, d, generator=generator)
    with LargestTensor(atoms) as made:
        prepared = PreparedAtoms(atoms, n - 48, budget, half=half)
        prepared.build_gram()
        assert prepared.gram is None
        code = pursue(pursuit, x, prepared, k)
        combine(code.support, code.coefficients, prepared.atoms)
        for policy in ("frozen_batch", "sequential"):
            GROWTH_POLICIES[policy](x[:16], prepared, GrowthRule(k, pursuit, False, 0.9))
    assert made.bytes <= budget // 2 < atoms.nbytes // 2


def test_a_dictionary_in_half_precision_has_its_bias_in_single_precision_and_decodes_without_a_copy(small_parts):
    atoms = unit_rows(torch.randn(4096, 64, generator=torch.Generator().manual_seed(0))).to(torch.bfloat16)
    dictionary = Dictionary(atoms, k=4, memory_budget=2**20)
    assert dictionary.bias.dtype == torch.float32
    x = torch.randn(30, 64, generator=torch.Generator().manual_seed(1))
    with LargestTensor(dictionary.atoms) as made:
        code = dictionary.encode(x)
        x_hat = dictionary.decode(code)
    assert made.bytes < atoms.nbytes
    torch.testing.assert_close((x - x_hat).square().sum(1), code.residual_energy)


def test_the_public_functions_take_half_precision_atoms_as_they_are(small_parts):
    atoms = unit_rows(torch.randn(4096, 64, generator=torch.Generator().manual_seed(0))).to(torch.bfloat16)
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
    with LargestTensor(atoms) as made:
        code = matching_pursuit(x, atoms, 3, memory_budget=2**20)
    assert made.bytes < atoms.nbytes
    assert code.coefficients.dtype == torch.float32
