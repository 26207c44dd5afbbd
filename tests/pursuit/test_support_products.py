"""Inner products of activations with the atoms of their codes, in every form."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itda_lightning.pursuit import support_products
from tests.pursuit.forms import DTYPES, PRUNING_FORMS, prepare


@pytest.mark.parametrize("form", PRUNING_FORMS)
@given(
    batch=st.integers(0, 9),
    n=st.integers(1, 7),
    d=st.integers(1, 40),
    k=st.integers(0, 5),
    half=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_they_are_those_of_all_atoms(form, batch, n, d, k, half, seed):
    generator = torch.Generator().manual_seed(seed)
    atoms = torch.nn.functional.normalize(torch.randn(n, d, generator=generator), dim=1)
    atoms = atoms.to(torch.bfloat16 if half else DTYPES[form])
    x = torch.randn(batch, d, generator=generator).to(torch.promote_types(atoms.dtype, torch.float32))
    support = torch.randint(-1, n, (batch, k), generator=generator)
    products = support_products(x, support, prepare(atoms, form))
    every = torch.nn.functional.pad(x.double() @ atoms.double().T, (0, 1))  # the last column is that of -1
    torch.testing.assert_close(products, every.gather(1, support % (n + 1)), rtol=1e-12, atol=1e-12)
