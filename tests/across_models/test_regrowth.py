"""Growing again: the same order gives the same dictionary, another order need not."""

import pytest
import torch

from itda_lightning import Dictionary, InputError
from itda_lightning.across_models.regrowth import check_regrowable, regrown, reordered_batches
from itda_lightning.activations.datamodule import ActivationsDataModule
from tests.fits import HOOK, data_settings, fitted

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def fit(tiny_model_dir, prose_file, tmp_path_factory) -> tuple[ActivationsDataModule, Dictionary]:
    data = ActivationsDataModule(
        **data_settings(tiny_model_dir, prose_file, cache_dir=str(tmp_path_factory.mktemp("cache")))
    )
    return data, fitted(data).finished_dictionary()


def test_in_the_same_order_it_is_the_same_dictionary(fit) -> None:
    data, dictionary = fit
    check_regrowable("it", dictionary)
    assert torch.equal(regrown({HOOK: dictionary}, data.train_dataloader())[HOOK], dictionary.source_table)


def test_in_the_same_order_it_is_the_same_with_an_exponent(fit) -> None:
    data, published = fit
    dictionary = fitted(data, energy_exponent=0.5, threshold=0.6).finished_dictionary()
    check_regrowable("it", dictionary)
    again = regrown({HOOK: dictionary}, data.train_dataloader())[HOOK]
    assert torch.equal(again, dictionary.source_table)
    assert not torch.equal(again[:20], published.source_table[:20])


def test_in_another_order_all_tokens_come_once_and_other_atoms_are_chosen(fit) -> None:
    data, dictionary = fit
    columns = [0, 2, 3, 4, 5]  # rows are numbered in the order read
    usual, other = (
        torch.cat([batch.table for batch in batches])[:, columns]
        for batches in (data.train_dataloader(), reordered_batches(data, 7))
    )
    assert not torch.equal(usual, other)
    assert torch.equal(usual.unique(dim=0), other.unique(dim=0))
    activations = {
        tuple(row): x
        for batch in data.train_dataloader()
        for row, x in zip(batch.table[:, columns].tolist(), batch.activations[HOOK], strict=True)
    }
    batch = next(iter(reordered_batches(data, 7)))
    assert torch.equal(batch.activations[HOOK][5], activations[tuple(batch.table[5, columns].tolist())])
    again = [regrown({HOOK: dictionary}, reordered_batches(data, 7))[HOOK] for _ in range(2)]
    assert torch.equal(*again)
    keys = [set(map(tuple, table[:, columns].tolist())) for table in (again[0], dictionary.source_table)]
    assert keys[0] != keys[1]


def test_a_dictionary_without_the_facts_of_its_fit_is_refused(fit) -> None:
    dictionary = fit[1]
    for change, message in (
        (
            {"threshold": None},
            "it does not say how it was fitted, so it cannot be grown in another order: set orders to 0",
        ),
        ({"fit": {}}, "does not say how it was fitted"),
        (
            {"fit": dictionary.metadata["fit"] | {"energy_exponent": 0.5}, "typical_energy": None},
            "fitted with energy_exponent 0.5, whose typical",
        ),
    ):
        other = Dictionary(dictionary.atoms, k=4, metadata=dictionary.metadata | change)
        with pytest.raises(InputError, match=message):
            check_regrowable("it", other)
