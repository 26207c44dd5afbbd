"""Amortised dictionaries: stock SAEs that fire where the pursuit does, on a world in which a linear encoder can."""

import pytest
import torch
from sae_lens import SAE, JumpReLUSAE, TopKSAE

import itda_lightning as il
from itda_lightning.saelens import amortised, save_export
from itda_lightning.saelens.amortised import LinearEncoder, regress

N, D = 24, 32


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """A quarter of the steps, of a quarter of the activations each: this world needs no more."""
    monkeypatch.setattr(amortised, "STEPS", 400)
    monkeypatch.setattr(amortised, "BATCH", 256)


def world(tokens, seed, signed=False):
    """Return nearly orthogonal atoms, their sparse codes, and the activations with a bias and noise."""
    generator = torch.Generator().manual_seed(0)
    atoms = torch.linalg.qr(torch.randn(D, N, generator=generator))[0].T
    atoms = torch.nn.functional.normalize(atoms + 0.05 * torch.randn(N, D, generator=generator), dim=1)
    generator = torch.Generator().manual_seed(seed)
    codes = (torch.rand(tokens, N, generator=generator) < 0.1) * (3 + torch.randn(tokens, N, generator=generator) / 4)
    if signed:
        codes *= torch.randint(0, 2, codes.shape, generator=generator) * 2 - 1
    return atoms, codes, 5 + codes @ atoms + 0.1 * torch.randn(tokens, D, generator=generator)


def dictionary_of(atoms, nonnegative=True):
    return il.Dictionary(atoms, torch.full((D,), 5.0), k=6, pursuit="omp", nonnegative=nonnegative, least_gain=0.02)


def agreement(fires, used):
    return float(2 * (fires & used).sum() / (fires.sum() + used.sum()))


@pytest.mark.parametrize("signed", [False, True])
def test_it_fires_where_the_pursuit_takes_an_atom_and_as_strongly(signed):
    atoms, _, x = world(3000, 1, signed)
    dictionary = dictionary_of(atoms, not signed)
    _, truth, unseen = world(1000, 2, signed)
    unseen = unseen[truth.any(1)]  # of activations without an atom, which are noise, only the pursuit takes some
    sae = il.to_sae(dictionary, "jumprelu", activations=x)
    assert type(sae) is JumpReLUSAE
    assert torch.equal(sae.W_dec[:N], atoms)
    dense = dictionary.encode(unseen).to_dense(N)
    expected = torch.cat([dense.relu(), (-dense).relu()], dim=1) if signed else dense
    codes = sae.encode(unseen)
    assert agreement(codes > 0, expected > 0) > 0.97
    both = (codes > 0) & (expected > 0)
    assert float((codes.detach() - expected)[both].abs().mean()) < 0.1 * float(expected[both].mean())
    explained = 1 - (sae(unseen) - unseen).square().sum() / (unseen - unseen.mean(0)).square().sum()
    assert float(explained) > 0.95


def test_topk_takes_the_mean_l0():
    atoms, truth, x = world(3000, 1)
    dictionary = dictionary_of(atoms)
    sae = il.to_sae(dictionary, "topk", activations=x)
    assert type(sae) is TopKSAE
    assert sae.cfg.k == round(float(dictionary.encode(x).l0().double().mean()))
    x = x[truth.any(1)]
    assert agreement(sae.encode(x) > 0, dictionary.encode(x).to_dense(N) > 0) > 0.78  # a fixed number per activation


def test_the_unit_of_the_activations_does_not_matter():
    atoms, _, x = world(3000, 1)
    code = il.Dictionary(atoms, k=4, nonnegative=True).encode(x - 5)
    small = regress(x - 5, code, N, True)
    large = regress(1000 * (x - 5), code._replace(coefficients=1000 * code.coefficients), N, True)
    assert small.l0 == large.l0
    torch.testing.assert_close(large.weight, small.weight, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(large.bias / 1000, small.bias, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(large.threshold / 1000, small.threshold, rtol=1e-3, atol=1e-2)


def test_it_is_the_same_every_time_and_loads_with_its_labels(tmp_path):
    atoms, _, x = world(3000, 1)
    dictionary = dictionary_of(atoms)
    sae = save_export(dictionary, tmp_path / "export", "jumprelu", activations=x)
    again = il.to_sae(dictionary, "jumprelu", activations=x)
    loaded = SAE.load_from_disk(tmp_path / "export")
    for name, value in sae.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
        assert torch.equal(value, loaded.state_dict()[name])
    assert loaded.cfg.metadata.itda["n_atoms"] == N


class Killed(Exception):
    """Ends a regression in the middle."""


def test_a_regression_that_was_killed_goes_on_and_ends_in_the_same_bits(tmp_path, monkeypatch, caplog):
    atoms, _, x = world(1500, 1)
    dictionary, step = dictionary_of(atoms), torch.optim.Adam.step
    done = []

    def killed(optimizer):
        done.append(step(optimizer))
        if len(done) == 130:
            raise Killed

    monkeypatch.setattr(amortised, "STEPS", 200)
    whole = save_export(dictionary, tmp_path / "whole", "jumprelu", activations=x).state_dict()
    monkeypatch.setattr(torch.optim.Adam, "step", killed)
    with pytest.raises(Killed):
        save_export(dictionary, tmp_path / "export", "jumprelu", activations=x)
    assert [path.name for path in tmp_path.iterdir() if path.name != "whole"] == ["export.encoder.safetensors"]
    kept = (tmp_path / "export.encoder.safetensors").read_bytes()
    with caplog.at_level("INFO"):
        resumed = save_export(dictionary, tmp_path / "export", "jumprelu", activations=x).state_dict()
    assert "going on after 100 of 200 steps" in caplog.text
    assert len(done) == 130 + 100
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "export"}
    for number, content in enumerate((kept[:200], kept)):  # a damaged file, one of other activations
        (tmp_path / f"{number}.encoder.safetensors").write_bytes(content)
        save_export(dictionary, tmp_path / str(number), "jumprelu", activations=x[:1400])
        assert f"{number}.encoder.safetensors is of another regression: this one starts anew" in caplog.text
    assert len(done) == 230 + 400


def test_an_atom_that_is_never_used_never_fires(caplog):
    atoms, _, x = world(3000, 1)
    code = il.Dictionary(atoms, k=4, nonnegative=True).encode(x - 5)
    support = code.support.masked_fill(code.support == 7, -1)
    coefficients = code.coefficients.masked_fill(code.support == 7, 0.0)
    encoder = regress(x - 5, code._replace(support=support, coefficients=coefficients), N, True)
    assert isinstance(encoder, LinearEncoder)
    assert "1 of 24 latents are never used by the 3000 activations" in caplog.text
    fires = (x - 5) @ encoder.weight + encoder.bias > encoder.threshold
    assert not bool(fires[:, 7].any())
    assert bool(fires[:, 8].any())


@pytest.mark.parametrize("architecture", ["topk", "jumprelu"])
def test_too_few_activations(architecture):
    dictionary = dictionary_of(world(10, 1)[0])
    with pytest.raises(il.InputError, match=f"architecture '{architecture}' needs activations, on whose codes"):
        il.to_sae(dictionary, architecture)
    x = torch.ones(140, D)
    x[:20] = torch.nan
    with pytest.raises(
        il.InputError, match="120 activations are too few for an encoder of 32 dimensions: give at least 128"
    ):
        il.to_sae(dictionary, architecture, activations=x)
