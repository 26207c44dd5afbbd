"""Centroids of k-means as the atoms of a dictionary."""

import sys

import pytest
import torch
from sklearn.cluster import MiniBatchKMeans

import itda_lightning as il
from itda_lightning.activations.shuffled import TrainingRows
from itda_lightning.errors import InputError
from itda_lightning.saelens.centroids import kmeans_dictionary
from itda_lightning.saelens.controls import random_dictionary
from tests.fits import HOOK, data_settings


@pytest.fixture(scope="module")
def cached(tiny_model_dir, prose_file, tmp_path_factory):
    data = il.ActivationsDataModule(
        **data_settings(tiny_model_dir, prose_file, cache_dir=str(tmp_path_factory.mktemp("cache")))
    )
    data.prepare_data()
    return data


def clustered(cached, n_atoms: int, **others):
    """The mean squared distance of the training directions from the nearest atom, and the dictionary."""
    dictionary = kmeans_dictionary(cached, HOOK, n_atoms, 4, **others)
    return distance(cached, dictionary), dictionary


def distance(cached, dictionary) -> float:
    x = torch.nn.functional.normalize(TrainingRows(cached, HOOK).first(4096) - dictionary.bias, dim=1)
    return float(torch.cdist(x, dictionary.atoms).amin(1).square().mean())


def test_atoms_are_nearer_to_activations_than_random_atoms(cached):
    near, dictionary = clustered(cached, 40)
    assert near < 0.85 * distance(cached, random_dictionary(cached, HOOK, 40, 4))
    assert (dictionary.n_atoms, dictionary.k, dictionary.pursuit, dictionary.sources) == (40, 4, "omp", None)
    torch.testing.assert_close(dictionary.atoms.norm(dim=1), torch.ones(40))
    assert dictionary.metadata["fit"]["control"] == "kmeans"
    assert dictionary.metadata["hook_name"] == HOOK
    assert torch.equal(dictionary.bias, random_dictionary(cached, HOOK, 40, 4).bias)


def test_they_are_those_of_scikit_learn_on_centred_unit_rows(cached):
    dictionary = kmeans_dictionary(cached, HOOK, 8, 4, bias=torch.arange(32.0), passes=200)
    x = torch.nn.functional.normalize(TrainingRows(cached, HOOK).first(4096) - torch.arange(32.0), dim=1)
    whole = MiniBatchKMeans(8, batch_size=len(x), n_init=20, random_state=0).fit(x.numpy())
    ours, theirs = distance(cached, dictionary), whole.inertia_ / len(x)
    # Centroids inside the sphere are a little nearer than their directions.
    assert ours == pytest.approx(theirs, rel=0.1)


def test_the_seed_decides_and_tokens_bound_what_is_read(cached):
    first, again, other = (kmeans_dictionary(cached, HOOK, 20, 4, seed=seed).atoms for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    few = kmeans_dictionary(cached, HOOK, 20, 4, seed=1, tokens=640, passes=2)
    assert few.metadata["activations_seen"] == 2 * TrainingRows(cached, HOOK, 640).n_kept
    assert not torch.equal(few.atoms, first)


def test_codes_may_be_pruned_to_a_mean_l0(cached):
    dictionary = kmeans_dictionary(cached, HOOK, 40, 4, "gomp", nonnegative=True, l0=2.5)
    x = next(cached.heldout_batches(HOOK)).x
    assert float(dictionary.encode(x).l0().float().mean()) == pytest.approx(2.5, abs=0.1)


def test_more_centroids_than_activations_and_no_scikit_learn_are_refused(cached, monkeypatch):
    with pytest.raises(InputError, match=r"n_atoms must lie between 1 and .*, got 1,000,000: centroids are of"):
        kmeans_dictionary(cached, HOOK, 10**6, 4)
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(InputError, match=r"need scikit-learn, .* run `pip install 'itda-lightning\[kmeans\]'`"):
        kmeans_dictionary(cached, HOOK, 5, 4)
