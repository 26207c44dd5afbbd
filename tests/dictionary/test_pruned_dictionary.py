"""A dictionary that prunes its codes: the same codes wherever it goes."""

import pytest
import torch
from sae_lens import SAE

import itda_lightning as il
from itda_lightning.saelens import save_export
from tests.process_groups import run_in_group


@pytest.fixture
def x():
    return torch.randn(60, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def dictionary():
    atoms = torch.nn.functional.normalize(torch.randn(30, 12, generator=torch.Generator().manual_seed(0)), dim=1)
    return il.Dictionary(atoms, torch.full((12,), 0.3), k=6, pursuit="omp", least_gain=0.04)


@pytest.mark.parametrize("pursuit", ["mp", "omp", "gomp"])
@pytest.mark.parametrize("nonnegative", [False, True])
def test_codes_are_those_of_the_pursuit_pruned(dictionary, x, pursuit, nonnegative):
    options = {"k": 6, "pursuit": pursuit, "nonnegative": nonnegative}
    whole = il.Dictionary(dictionary.atoms, dictionary.bias, **options).encode(x)
    expected = il.prune(whole, x - dictionary.bias, dictionary.atoms, 0.04, nonnegative)
    code = il.Dictionary(dictionary.atoms, dictionary.bias, least_gain=0.04, **options).encode(x)
    for one, other in zip(code, expected, strict=True):
        assert torch.equal(one, other)
    assert float(code.l0().float().mean()) < float(whole.l0().float().mean())


def test_it_is_saved_exported_and_unrefined_with_its_least_gain(dictionary, x, tmp_path):
    code = dictionary.encode(x)
    dictionary.save(tmp_path / "saved")
    save_export(dictionary, tmp_path / "export")
    for loaded in (
        il.load_dictionary(tmp_path / "saved"),
        il.load_dictionary(tmp_path / "export"),
        dictionary.unrefined(),
    ):
        assert loaded.least_gain == 0.04
        assert torch.equal(loaded.encode(x).support, code.support)
    dense = SAE.load_from_disk(tmp_path / "export").encode(x)
    torch.testing.assert_close(dense, code.to_dense(30))


@pytest.mark.parametrize("pursuit", ["mp", "omp"])
def test_gradients_are_those_of_least_squares_on_the_support_that_is_left(dictionary, x, pursuit):
    sae = il.to_sae(il.Dictionary(dictionary.atoms, k=6, pursuit=pursuit, least_gain=0.04)).to(dtype=torch.float64)
    point = x[:2].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda a: sae.encode(a), point, eps=1e-7, atol=1e-5)


def test_it_is_no_matching_pursuit_of_saelens(dictionary):
    pruned = il.Dictionary(dictionary.atoms, k=6, least_gain=0.04)
    with pytest.raises(
        il.InputError, match="with pursuit 'mp' and pruned codes cannot be exported as 'matching_pursuit'"
    ):
        il.to_sae(pruned, "matching_pursuit")


def _sharded(path: str, x: torch.Tensor) -> list[torch.Tensor]:
    return list(il.ShardedDictionary(path).encode(x))


@pytest.mark.long
def test_processes_that_share_the_atoms_prune_alike(dictionary, x, tmp_path):
    dictionary.save(tmp_path / "saved")
    code = dictionary.encode(x)
    for support, coefficients, energy in run_in_group(2, _sharded, str(tmp_path / "saved"), x):
        assert torch.equal(support, code.support)
        torch.testing.assert_close(coefficients, code.coefficients)
        torch.testing.assert_close(energy, code.residual_energy)


@pytest.mark.parametrize("least_gain", [-0.1, 1.5, float("nan")])
def test_a_least_gain_out_of_range(least_gain):
    with pytest.raises(ValueError, match=r"least_gain must be a share of \|x\|\^2 in \[0, 1\], got"):
        il.Dictionary(torch.eye(4), k=2, least_gain=least_gain)
