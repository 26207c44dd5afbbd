"""Relabelling after refinement: by its definition on the activations of a fit, and what is shown of it."""

import re
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from itda_lightning import ITDA, ActivationsDataModule
from itda_lightning.activations.shuffled import TrainingRows
from itda_lightning.decompose import decompose_text
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.sources import COLUMNS
from itda_lightning.evaluation.data_of import add_prompts
from itda_lightning.evaluation.decomposition import decompose_tokens
from itda_lightning.evaluation.neuronpedia_batches import Place
from itda_lightning.evaluation.neuronpedia_files import explanations_of
from itda_lightning.evaluation.page_results import measure_for_page
from itda_lightning.fitting import relabelling
from itda_lightning.fitting.checkpoint_io import SafetensorsCheckpointIO
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.fitting.refinement import RefinementSettings, refine
from itda_lightning.fitting.relabelling import relabel, typical_uses
from itda_lightning.report.words.wording import MINUS, show_cosine
from tests.fits import HOOK, data_settings, fitted

ROW, POSITION = COLUMNS.index("row"), COLUMNS.index("position")
SETTINGS = RefinementSettings(anchor=0.5, passes=1, batch_size=64, relabel=True)


@pytest.fixture(scope="module")
def data(tiny_model_dir, prose_file, tmp_path_factory) -> ActivationsDataModule:
    cache = str(tmp_path_factory.mktemp("cache"))
    # Rows so short that there are several blocks of them.
    return ActivationsDataModule(**data_settings(tiny_model_dir, prose_file, cache_dir=cache, context_size=8))


@pytest.fixture(scope="module")
def module(data) -> ITDA:
    module = fitted(data)
    refine(module, data, SETTINGS)
    assert relabel(module, data) > 0
    return module


@pytest.mark.parametrize("nonnegative", [False, True])
def test_labels_are_by_definition_the_nearest_of_the_typical_uses(data, nonnegative, monkeypatch):
    monkeypatch.setattr(relabelling, "PART", 100)
    monkeypatch.setattr(relabelling, "NEAREST", 5)
    rows = TrainingRows(data, HOOK)
    x, table = (torch.cat(parts) for parts in zip(*(rows.usable(*block) for block in rows.blocks), strict=True))
    atoms = normalize(x[3:300:7], dim=1)
    atoms = torch.cat([atoms, atoms[:1]])  # no code uses the second of equal atoms
    dictionary = Dictionary(atoms, x.mean(0), k=3, nonnegative=nonnegative, least_gain=0.2)
    labels = typical_uses(dictionary, rows)
    dense = dictionary.encode(x).to_dense(len(atoms))
    cosines = normalize(x.double() - dictionary.bias.double(), dim=1) @ normalize(atoms.double(), dim=1).T
    cosines = cosines.masked_fill(dense == 0, -2)
    used = (dense != 0).any(0)
    assert 5 < int(used.sum()) < len(atoms)
    tokens, others = rows.rows.tokens[table[:, ROW], table[:, POSITION]].tolist(), 0
    for atom in used.nonzero()[:, 0].tolist():
        uses = dense[:, atom].nonzero()[:, 0].tolist()
        # Tokens in the same context have the same activation: the first of them. Rounding must not order them.
        nearest = [uses[i] for i in cosines[uses, atom].round(decimals=9).argsort(descending=True, stable=True)[:5]]
        frequency = Counter(tokens[use] for use in nearest)
        best = next(use for use in nearest if frequency[tokens[use]] == max(frequency.values()))
        assert torch.equal(labels.table[atom], table[best])
        assert float(labels.cosines[atom]) == pytest.approx(float(cosines[best, atom]), abs=1e-6)
        others += best != nearest[0]
    assert others > 3, "the nearest use is often not a typical one"
    assert labels.table[~used].tolist() == [[-1] * 6] * int((~used).sum())  # no source: it keeps none
    assert (labels.cosines[~used] == 1).all()


def test_a_module_is_relabelled_once_and_keeps_its_first_sources(data, module):
    plain = fitted(data)
    refine(plain, data, replace(SETTINGS, relabel=False))
    assert relabel(plain, data) < 1
    one, other = plain.finished_dictionary(), module.finished_dictionary()
    assert one.relabelled is None
    assert torch.equal(one.atoms, other.atoms)
    assert torch.equal(one.source_table, other.source_table)
    assert not torch.equal(other.labels, other.source_table)
    rows = TrainingRows(data, HOOK).rows
    assert other.label_prompts == rows.prompts(other.labels)
    facts = module.refinements[HOOK]
    assert facts["mean_label_cosine"] == float(other.label_cosines.mean())
    labels = module.dictionary().relabelled
    relabel(module, data)
    assert torch.equal(module.dictionary().labels, labels.table)


def test_a_checkpoint_keeps_labels(data, module, tmp_path):
    path = tmp_path / "relabelled.ckpt"
    module.trainer.strategy.checkpoint_io = SafetensorsCheckpointIO()
    module.trainer.save_checkpoint(path)
    for loaded in (load_dictionary(path), ITDA.load_from_checkpoint(path).finished_dictionary()):
        assert torch.equal(loaded.labels, module.dictionary().labels)
        assert torch.equal(loaded.label_cosines, module.dictionary().label_cosines)
        assert loaded.label_prompts is None
        add_prompts(loaded, data)
        assert loaded.label_prompts == module.finished_dictionary().label_prompts


def test_labels_are_what_is_shown(data, module, tmp_path, capsys):
    dictionary = module.finished_dictionary()
    expected = dictionary.label_cosines.tolist()
    [shown] = decompose_tokens(dictionary, data, HOOK, "The Senate of the United States", [-1])
    assert shown.terms
    for term in shown.terms:
        assert term.prompt == dictionary.label_prompts[term.atom]
    results = measure_for_page(dictionary, data, HOOK, {})
    assert [list(atom.source) for atom in results.usage.atoms] == dictionary.labels.tolist()
    assert tuple(atom.prompt for atom in results.usage.atoms) == dictionary.label_prompts
    assert f"with the label {dictionary.label_cosines.mean():.3f} on average" in results.facts["refinement"]
    dictionary.save(tmp_path / "saved")
    decompose_text(str(tmp_path / "saved"), "The Senate of the United States", device="cpu")
    rows = re.findall(rf"^ *(\d+) +{MINUS}?[\d.,]+ +([01]\.\d{{3}}) ", capsys.readouterr().out, re.MULTILINE)
    assert [int(atom) for atom, _ in rows] == [term.atom for term in shown.terms]
    assert [cosine for _, cosine in rows] == [show_cosine(expected[term.atom]) for term in shown.terms]
    lines = [row["description"] for row in explanations_of(Place("m", 1, "itda"), dictionary, [0, 3])]
    for atom, line in zip((0, 3), lines, strict=True):
        assert line.startswith(f"refined, cosine {show_cosine(expected[atom])} with the activation of [[")
        assert f"[[{dictionary.label_prompts[atom].token}]]" in line
