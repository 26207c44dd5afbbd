"""Labels of refined atoms: shown in place of first sources, kept by every file, dropped by ``unrefined``."""

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.dictionary_files import INDEX_FILE, TENSORS_FILE
from itda_lightning.dictionary.named_atoms import Labels
from itda_lightning.dictionary.sources import Prompt
from itda_lightning.errors import InputError
from itda_lightning.saelens import from_sae, load_export, save_export, to_sae
from tests.dictionary.test_dictionary import sources_of, table_of, unit_rows
from tests.fitting.test_refined_dictionary import assert_same, refined_dictionary

COSINES = torch.linspace(-0.2, 1, 12, dtype=torch.float64)


def labels_of(n: int = 12) -> Labels:
    return Labels(table_of(n, 100), COSINES[:n], tuple(Prompt("", f"label {i}", "") for i in range(n)))


def relabelled(**others: Any) -> Dictionary:
    made = refined_dictionary(**others)
    made.relabel(labels_of())
    return made


def test_first_sources_are_the_labels_until_there_are_others():
    made = refined_dictionary()
    assert made.relabelled is None
    assert torch.equal(made.labels, made.source_table)
    assert torch.equal(made.label_cosines, made.cosines)
    assert made.label_prompts == made.prompts
    assert made.unrefined().label_cosines is None
    made.relabel(labels_of())
    assert torch.equal(made.labels, table_of(12, 100))
    assert torch.equal(made.label_cosines, COSINES)
    assert [prompt.token for prompt in made.label_prompts] == [f"label {i}" for i in range(12)]
    assert torch.equal(made.source_table, table_of(12))  # the record of the first sources
    assert made.prompts == sources_of(12).prompts
    assert_same(made.unrefined(), refined_dictionary().unrefined())


def test_files_keep_labels_and_have_the_version_that_reads_them(tmp_path):
    made = relabelled()
    made.save(tmp_path / "saved")
    assert_same(Dictionary.load(tmp_path / "saved"), made)
    assert json.loads((tmp_path / "saved" / INDEX_FILE).read_text())["version"] == 3
    tensors = load_file(tmp_path / "saved" / TENSORS_FILE)
    assert torch.equal(tensors["labels"], table_of(12, 100))
    assert torch.equal(tensors["label_cosines"], COSINES)
    made.relabel(labels_of()._replace(prompts=None))
    made.save(tmp_path / "without prompts")
    assert Dictionary.load(tmp_path / "without prompts").label_prompts is None


@pytest.mark.parametrize("architecture", ["itda", "matching_pursuit"])
def test_exports_keep_labels(tmp_path, architecture):
    made = relabelled()
    save_export(made, tmp_path / "export", architecture)
    assert_same(load_export(tmp_path / "export"), made)
    content = json.loads((tmp_path / "export" / "cfg.json").read_text())["metadata"]["itda"]
    assert (content["version"], content["labels"]["document"]) == (3, table_of(12, 100)[:, 0].tolist())
    assert to_sae(refined_dictionary(), architecture).cfg.metadata["itda"]["version"] == 2
    sae = to_sae(made, architecture)
    del sae.cfg.metadata["itda"]["label_cosines"]
    with pytest.raises(InputError, match=r"KeyError: 'label_cosines'\): export it again"):
        from_sae(sae)


def test_a_state_keeps_labels_without_their_text():
    state, other = relabelled().state_dict(), refined_dictionary(seed=5)
    other.keep_labels()
    other.load_state_dict(state)
    assert torch.equal(other.labels, table_of(12, 100))
    assert torch.equal(other.label_cosines, COSINES)
    assert other.label_prompts is None


@pytest.mark.parametrize(
    "labels",
    [
        labels_of(11),
        labels_of()._replace(cosines=COSINES[1:]),
        labels_of()._replace(prompts=()),
        labels_of()._replace(table=torch.zeros(12, 5, dtype=torch.int64)),
    ],
)
def test_another_number_of_labels_is_refused(labels):
    made = refined_dictionary()
    with pytest.raises(InputError, match=r"12 atoms have one label each, of 6 columns, with its cosine and prompt"):
        made.relabel(labels)
    assert made.relabelled is None


def test_a_relabelled_dictionary_does_not_grow():
    rows: Tensor = unit_rows(12, 16)
    made = Dictionary(rows, k=2, capacity=20)
    made.relabel(labels_of())
    with pytest.raises(InputError, match="does not grow"):
        made.append(rows[:1], table_of(1))
