"""The atoms that are like an atom, and the tokens that it promotes."""

import pytest
import torch

from itda_lightning.evaluation import atom_meanings
from itda_lightning.evaluation.data_of import data_for
from itda_lightning.evaluation.logit_effects import Unembedding, token_texts
from itda_lightning.fitting.loading import load_dictionary
from tests.runs import HOOK


@pytest.mark.parametrize("block", [7, 1024])
def test_the_nearest_are_those_of_all_cosines(monkeypatch, block):
    monkeypatch.setattr(atom_meanings, "BLOCK", block)
    atoms = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    unit = torch.nn.functional.normalize(atoms, dim=1)
    cosines = unit @ unit.T - 2 * torch.eye(40)
    for row, found in zip(cosines, atom_meanings.nearest_atoms(atoms), strict=True):
        values, indices = row.sort(descending=True)
        expected = [(int(i), float(v)) for i, v in zip(indices[:6], values[:6], strict=True) if v > 0]
        assert [atom for atom, _ in found] == [atom for atom, _ in expected]
        assert [cosine for _, cosine in found] == pytest.approx([cosine for _, cosine in expected], abs=1e-6)


def test_one_atom_alone_has_no_neighbour():
    assert list(atom_meanings.nearest_atoms(torch.eye(3)[:1])) == [()]
    assert list(atom_meanings.nearest_atoms(torch.eye(3)[:0])) == []


def test_promoted_tokens_are_those_of_the_largest_logits(tiny_run):
    dictionary = load_dictionary(tiny_run)
    data = data_for(dictionary, None, HOOK)
    found = atom_meanings.atom_meanings(dictionary, data, HOOK)
    unembedding = Unembedding.of(data.language_model, HOOK)
    assert unembedding is not None
    logits = unembedding.logits(dictionary.atoms)
    for shown, row in zip(found[:5], logits[:5], strict=True):
        best, worst = token_texts(data.tokenizer, [int(row.argmax()), int(row.argmin())])
        assert (shown.promoted[0], shown.suppressed[0]) == (best, worst)
        assert len(shown.promoted) == len(shown.suppressed) == 8


def test_a_large_model_is_not_loaded_for_them(tiny_run, monkeypatch, caplog):
    monkeypatch.setattr(atom_meanings, "LARGEST_SHARE", 0.0)
    dictionary = load_dictionary(tiny_run)
    data = data_for(dictionary, None, HOOK)
    with caplog.at_level("INFO"):
        (first, *_) = atom_meanings.atom_meanings(dictionary, data, HOOK)
    assert first.nearest
    assert (first.promoted, first.suppressed) == ((), ())
    assert "promoted tokens are left out: the language model takes" in caplog.text
    assert "language_model" not in vars(data)
