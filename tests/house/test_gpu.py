"""On a CUDA device: the same supports and coefficients as on the CPU. Marked ``gpu``; skipped where there is none."""

import pytest
import torch
from torch.nn import functional

import itda_lightning as il
from itda_lightning.growth import GROWTH_POLICIES, GrowthRule
from itda_lightning.pursuit import PreparedAtoms

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("pursuit", ["mp", "omp", "gomp"])
@pytest.mark.parametrize("nonnegative", [False, True])
def test_codes_are_those_of_the_cpu(pursuit: str, nonnegative: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    atoms = functional.normalize(torch.randn(512, 64, generator=generator, dtype=torch.float64), dim=1)
    x = torch.randn(256, 64, generator=generator, dtype=torch.float64)
    dictionary = il.Dictionary(atoms, k=12, pursuit=pursuit, nonnegative=nonnegative)
    here = dictionary.encode(x)
    there = dictionary.to("cuda").encode(x.cuda())
    assert torch.equal(here.support, there.support.cpu())
    torch.testing.assert_close(here.coefficients, there.coefficients.cpu(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("policy", sorted(GROWTH_POLICIES))
def test_growth_chooses_what_it_chooses_on_the_cpu(policy: str) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(600, 32, generator=generator, dtype=torch.float64)
    rule = GrowthRule(k=6, pursuit="mp", nonnegative=False, threshold=0.4)
    chosen = []
    for device in ("cpu", "cuda"):
        prepared = PreparedAtoms(torch.zeros(400, 32, dtype=torch.float64, device=device), 0)
        prepared.build_gram()
        chosen.append(GROWTH_POLICIES[policy](x.to(device), prepared, rule).accepted.cpu())
    assert torch.equal(chosen[0], chosen[1])
