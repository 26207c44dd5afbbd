"""Activations at the sources of a dictionary, in its own model and in others."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from itda_lightning.across_models.source_activations import at_sources, check_sources
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.models.language_model import LanguageModel
from itda_lightning.activations.models.model_name import LanguageModelName
from itda_lightning.dictionary.facts import settings
from itda_lightning.dictionary.sources import Sources
from itda_lightning.errors import InputError
from itda_lightning.fitting.loading import load_dictionary
from tests import by_hand
from tests.other_model import other_tokens_dir  # noqa: F401  a fixture
from tests.runs import HOOK, LAYER


@pytest.fixture(scope="module")
def dictionary(tiny_run: Path):
    return load_dictionary(tiny_run)


@pytest.fixture(scope="module")
def data(dictionary) -> ActivationsDataModule:
    return ActivationsDataModule(**dictionary.metadata["data"])


def model(path: Path) -> LanguageModel:
    return LanguageModel(LanguageModelName(str(path), device="cpu"), [HOOK])


def test_in_its_own_model_they_are_the_atoms(dictionary, data, tiny_model_dir) -> None:
    read = at_sources(check_sources(dictionary.sources, data), data, model(tiny_model_dir), batch_size=7)
    assert read.index.tolist() == list(range(dictionary.n_atoms))
    assert torch.equal(read.table, dictionary.sources.table)
    assert read.prompts == dictionary.prompts
    assert (read.unaligned, read.unusable) == (0, 0)
    atoms = normalize(read.x[HOOK] - dictionary.bias, dim=1)
    torch.testing.assert_close(atoms, dictionary.atoms, atol=2e-6, rtol=0)


def test_a_model_of_other_tokens_reads_the_same_text(dictionary, data, other_tokens_dir, prose) -> None:  # noqa: F811
    language_model = model(other_tokens_dir)
    read = at_sources(dictionary.sources, data, language_model)
    assert 0 < len(read.index) == dictionary.n_atoms - read.unaligned
    for index, prompt, place, x in zip(read.index.tolist(), read.prompts, read.table, read.x[HOOK], strict=True):
        source = dictionary.sources[index]
        document, row, position, token, start, end = place.tolist()
        assert (document, row, end) == (source.document, source.row, source.end)
        assert prompt.token == prose[document][start:end]
        # The text of the row up to the source, as that model alone would read it.
        own = dictionary.prompts[index]
        assert prompt.before + prompt.token in own.before + own.token
        if "</s>" in prompt.before:
            continue
        first = end - len((prompt.before + prompt.token).removeprefix("<s>"))
        encoded = language_model.tokenizer(prose[document], add_special_tokens=False, return_offsets_mapping=True)
        spans = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ids = [0, *(token_id for token_id, (a, b) in spans if first <= a and b <= end)]
        assert (len(ids) - 1, ids[-1]) == (position, token)
        by_model = by_hand.activations(other_tokens_dir, LAYER, torch.tensor([ids]))[0, -1]
        torch.testing.assert_close(x, by_model, atol=1e-4, rtol=1e-4)


def test_two_sources_of_one_token_are_read_once(dictionary, data, tiny_model_dir) -> None:
    first = dictionary.sources.table[:3]
    twice = Sources(torch.cat([first, first[1:2]]), dictionary.dataset)
    read = at_sources(twice, data, model(tiny_model_dir))
    assert (read.index.tolist(), read.unaligned) == ([0, 1, 2], 1)


def test_sources_without_a_token_are_refused(dictionary, data, other_tokens_dir, monkeypatch) -> None:  # noqa: F811
    nowhere = "itda_lightning.across_models.source_activations.places_of"
    monkeypatch.setattr(nowhere, lambda table, rows: torch.full((len(table),), -1))
    with pytest.raises(InputError, match=rf"none of the {dictionary.n_atoms} sources has a usable activation"):
        at_sources(dictionary.sources, data, model(other_tokens_dir))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda sources: None, "has no sources, so there are no prompts"),
        (lambda sources: replace(sources, dataset="others"), "are of the documents others, .* has the documents"),
        (
            lambda sources: replace(sources, table=sources.table + 1),
            r"do not lie in the training rows .* \(120 rows of 16",
        ),
        (lambda sources: replace(sources, table=sources.table - 10_000), "do not lie in the training rows"),
    ],
)
def test_sources_that_are_not_in_the_rows_are_refused(dictionary, data, change, message) -> None:
    with pytest.raises(InputError, match=message):
        check_sources(change(dictionary.sources), data)


def test_other_settings_of_the_data_are_refused(dictionary, data) -> None:
    other = ActivationsDataModule(**{**settings(data.hparams), "seed": 5})
    with pytest.raises(InputError, match="give the settings of the fit"):
        check_sources(dictionary.sources, other)
