"""Dictionaries transferred to another model: nothing changes in the same model, and rivals encode alike."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from itda_lightning.across_models.source_sets import cropped
from itda_lightning.across_models.transfer_study import rivals, transfer
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.facts import settings
from itda_lightning.fitting.loading import load_dictionary
from tests.other_model import other_model_dir  # noqa: F401  a fixture
from tests.runs import HOOK, OTHER_HOOK


@pytest.fixture(scope="module")
def dictionary(tiny_run) -> Dictionary:
    return load_dictionary(tiny_run)


@dataclass
class Data:
    of_fit: ActivationsDataModule

    def of(self, model: Any, hook: str = HOOK) -> ActivationsDataModule:
        return ActivationsDataModule(**{**settings(self.of_fit.hparams), "model": str(model), "hook_names": [hook]})


@pytest.fixture(scope="module")
def data(dictionary) -> Data:
    return Data(ActivationsDataModule(**dictionary.metadata["data"]))


def test_into_its_own_model_a_dictionary_comes_back(dictionary, data, tiny_model_dir) -> None:
    rebuilt = transfer(dictionary, data.of_fit, data.of(tiny_model_dir))
    torch.testing.assert_close(rebuilt.atoms, dictionary.atoms, atol=2e-6, rtol=0)
    torch.testing.assert_close(rebuilt.bias, dictionary.bias, atol=1e-5, rtol=0)
    assert torch.equal(rebuilt.sources.table, dictionary.sources.table)
    assert rebuilt.prompts == dictionary.prompts
    assert (rebuilt.k, rebuilt.pursuit, rebuilt.nonnegative) == (dictionary.k, dictionary.pursuit, False)


def test_in_another_model_atoms_are_its_centred_activations(dictionary, data, other_model_dir) -> None:  # noqa: F811
    target = data.of(other_model_dir, OTHER_HOOK)
    rebuilt = transfer(dictionary, data.of_fit, target)
    assert torch.equal(rebuilt.sources.table, dictionary.sources.table)
    mean = target.calibration_batch(dictionary.metadata["fit"]["calibration_tokens"]).activations[OTHER_HOOK].mean(0)
    torch.testing.assert_close(rebuilt.bias, mean)
    seen = {}
    for batch in target.train_dataloader():
        for source, x in zip(batch.table.tolist(), batch.activations[OTHER_HOOK], strict=True):
            seen[tuple(source)] = x
    x = torch.stack([seen[tuple(source)] for source in dictionary.sources])
    torch.testing.assert_close(rebuilt.atoms, normalize(x - mean, dim=1), atol=2e-6, rtol=0)
    assert rebuilt.metadata["model_name"] == str(other_model_dir)
    assert rebuilt.metadata["hook_name"] == OTHER_HOOK
    facts = rebuilt.metadata["transfer"]
    assert facts["model_name"] == dictionary.metadata["model_name"]
    assert (facts["hook_name"], facts["unaligned"], facts["unusable"]) == (HOOK, 0, 0)
    assert facts["atoms"] == list(range(dictionary.n_atoms))


def without_bias(dictionary: Dictionary) -> Dictionary:
    return Dictionary(
        dictionary.atoms, None, dictionary.sources, k=3, pursuit="omp", nonnegative=True, metadata=dictionary.metadata
    )


def test_a_dictionary_that_is_not_centred_stays_so(dictionary, data, tiny_model_dir) -> None:
    rebuilt = transfer(without_bias(dictionary), data.of_fit, data.of(tiny_model_dir))
    assert not bool(rebuilt.bias.any())
    assert (rebuilt.k, rebuilt.pursuit, rebuilt.nonnegative) == (3, "omp", True)


def test_rivals_encode_as_the_dictionary_does(dictionary) -> None:
    for some, centred in ((dictionary, True), (without_bias(dictionary), False)):
        native, random = rivals(some, 40)
        for chosen in (native.fit, random.random):
            assert (chosen.k, chosen.pursuit, chosen.nonnegative) == (some.k, some.pursuit, some.nonnegative)
            assert chosen.center is centred
        assert native.fit.max_atoms == 50
        assert random.random.n_atoms == 40


@pytest.mark.parametrize(("size", "left"), [(5, 5), (10_000, None)])
def test_a_dictionary_is_cropped_to_its_first_atoms(dictionary, size, left) -> None:
    first = cropped(dictionary, slice(size))
    n = left or dictionary.n_atoms
    assert torch.equal(first.atoms, dictionary.atoms[:n])
    assert torch.equal(first.sources.table, dictionary.sources.table[:n])
    assert (first.k, first.metadata) == (dictionary.k, dictionary.metadata)


def test_a_dictionary_is_cropped_to_some_of_its_atoms(dictionary) -> None:
    atoms = torch.tensor([0, 3, 4])
    assert torch.equal(cropped(dictionary, atoms).atoms, dictionary.atoms[atoms])
    assert cropped(Dictionary(torch.eye(5), k=2), atoms).sources is None
