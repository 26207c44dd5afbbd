import json

import pytest
import torch
from sae_lens import SAE
from torch.nn import functional

import itda_lightning as il
from itda_lightning.activations.shuffled import TrainingRows
from itda_lightning.errors import InputError
from itda_lightning.evaluation.saelens_evals import evaluate_sae
from itda_lightning.saelens.controls import pca_sae, principal_components, random_dictionary
from tests.fits import HOOK, data_settings, fitted


@pytest.fixture(scope="module")
def cached(tiny_model_dir, prose_file, tmp_path_factory):
    data = il.ActivationsDataModule(
        **data_settings(tiny_model_dir, prose_file, cache_dir=str(tmp_path_factory.mktemp("cache")))
    )
    data.prepare_data()
    return data


@pytest.fixture(scope="module")
def of_fit(cached):
    """All training activations as a fit reads them, and their sources."""
    batches = list(cached.train_dataloader())
    return torch.cat([batch.activations[HOOK] for batch in batches]), torch.cat([batch.table for batch in batches])


def test_atoms_are_training_activations_with_their_sources(cached, of_fit):
    x, table = of_fit
    dictionary = random_dictionary(cached, HOOK, 150, 4, "omp", seed=3)
    assert (dictionary.n_atoms, dictionary.k, dictionary.pursuit) == (150, 4, "omp")
    assert dictionary.dataset == cached.documents.fingerprint
    index = {tuple(source): i for i, source in enumerate(table.tolist())}
    drawn = [index[tuple(source)] for source in dictionary.source_table.tolist()]
    assert len(set(drawn)) == 150
    assert drawn != sorted(drawn)
    assert torch.allclose(dictionary.atoms, functional.normalize(x[drawn] - dictionary.bias, dim=1), atol=1e-6)
    assert all(prompt.token for prompt in dictionary.prompts)
    assert dictionary.metadata["hook_name"] == HOOK
    assert dictionary.metadata["fit"]["control"] == "random"
    json.dumps(dictionary.metadata, allow_nan=False)


def test_the_bias_is_the_one_given_or_that_of_an_itda(cached):
    given = torch.arange(32.0)
    assert torch.equal(random_dictionary(cached, HOOK, 20, 4, bias=given).bias, given)
    itda = fitted(cached, calibration_tokens=8192).dictionary()
    assert torch.equal(random_dictionary(cached, HOOK, 20, 4).bias, itda.bias)


def test_the_seed_decides_the_draw(cached):
    first, again, other = (random_dictionary(cached, HOOK, 50, 4, seed=seed).source_table for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_atoms_are_drawn_from_the_first_tokens_only(cached):
    assert random_dictionary(cached, HOOK, 100, 4, tokens=640).source_table[:, 1].max() < 20


def test_a_draw_of_everything_takes_every_direction_once(cached, of_fit):
    x = functional.normalize(of_fit[0], dim=1)
    different = len({tuple(row) for row in x.tolist()})
    dictionary = random_dictionary(cached, HOOK, different, 4, bias=torch.zeros(32))
    assert len({tuple(row) for row in dictionary.atoms.tolist()}) == different


def test_what_occurs_twice_is_drawn_once(cached, of_fit, monkeypatch):
    cache = cached.cache("train")
    read = cache.read

    def twice(start, stop):
        part = read(start, stop)
        part.activations[HOOK][1::2] = part.activations[HOOK][: part.activations[HOOK].shape[0] // 2 * 2 : 2]
        part.activations[HOOK][0, 3] = 0.0  # not usable
        return part

    monkeypatch.setattr(cache, "read", twice)
    n = cached.rows("train").n_kept
    dictionary = random_dictionary(cached, HOOK, n // 3, 4)
    assert len({tuple(row) for row in dictionary.atoms.tolist()}) == n // 3
    with pytest.raises(InputError, match=rf"hold only [\d,]+ different usable activations, n_atoms is {n:,}"):
        random_dictionary(cached, HOOK, n, 4)


def test_a_random_dictionary_is_a_dictionary(cached, tmp_path):
    dictionary = random_dictionary(cached, HOOK, 64, 4)
    dictionary.save(tmp_path / "random")
    assert torch.equal(il.Dictionary.load(tmp_path / "random").source_table, dictionary.source_table)
    metrics, _ = evaluate_sae(il.to_sae(dictionary), cached.language_model, cached.rows("heldout"), progress=False)
    assert metrics["l0"] <= 4


@pytest.mark.parametrize(
    ("n_atoms", "bias", "message"),
    [
        (0, None, "n_atoms must lie between 1 and .* got 0"),
        (10**6, None, "got 1,000,000: atoms are drawn from the training"),
        (5, torch.zeros(31), r"shape \(32,\) like an activation, got \(31,\)"),
    ],
)
def test_a_bad_draw_is_explained(cached, n_atoms, bias, message):
    with pytest.raises(InputError, match=message):
        random_dictionary(cached, HOOK, n_atoms, 4, bias=bias)


@pytest.mark.parametrize("k", [1, 7, 32])
def test_pca_is_the_best_reconstruction_by_k_directions(cached, of_fit, k):
    x = of_fit[0].double()
    sae = pca_sae(cached, HOOK, k)
    codes = sae.encode(x.float())
    assert codes.shape == (len(x), 2 * k)
    assert ((codes != 0).sum(1) == k).all()
    mean = x.mean(0)
    u, s, v = torch.linalg.svd(x - mean, full_matrices=False)
    expected = (u[:, :k] * s[:k]) @ v[:k] + mean
    assert torch.allclose(sae.decode(codes).double(), expected, atol=1e-4 * float(s[0] / len(x) ** 0.5))
    signed = codes[:, :k] - codes[:, k:]
    assert torch.allclose(signed.abs().double(), (u[:, :k] * s[:k]).abs(), atol=1e-4 * float(s[0]))
    explained = sae.cfg.metadata["training"]["explained_variance"]
    assert explained == pytest.approx(float(s[:k].square().sum() / s.square().sum()))


def test_components_agree_with_those_of_torch(cached, of_fit):
    x = of_fit[0].double()
    _, components, variances, n = principal_components(TrainingRows(cached, HOOK))
    assert n == len(x)
    _, s, v = torch.pca_lowrank(x, q=32, niter=8)
    assert torch.allclose(variances, s.square() / len(x), rtol=1e-6)
    cosines = (components[:5] * v.T[:5]).sum(1).abs()
    assert torch.allclose(cosines, torch.ones(5, dtype=torch.float64), atol=1e-6)


def test_pca_of_the_first_tokens_is_that_of_their_activations(cached, of_fit):
    kept = int(cached.rows("train").kept[:20].sum())
    mean, *_, n = principal_components(TrainingRows(cached, HOOK, 640))
    assert n == kept
    assert torch.allclose(mean, of_fit[0][:kept].double().mean(0), atol=1e-9)


def test_pca_is_an_sae_that_the_evals_take(cached, tmp_path):
    pca_sae(cached, HOOK, 8).save_model(tmp_path / "pca")
    sae = SAE.load_from_disk(tmp_path / "pca")
    metrics, _ = evaluate_sae(sae, cached.language_model, cached.rows("heldout"), progress=False)
    assert metrics["l0"] == pytest.approx(8, abs=0.01)
    assert 0 < metrics["fvu"] < 1


@pytest.mark.parametrize("k", [0, 33])
def test_a_number_of_components_out_of_range_is_explained(cached, k):
    with pytest.raises(InputError, match=f"k must lie between 1 and 32, got {k}"):
        pca_sae(cached, HOOK, k)
