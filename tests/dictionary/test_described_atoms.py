"""Labels in one line, atoms found by token, and what is shown of a dictionary."""

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import itda_lightning as il
from itda_lightning.dictionary.atoms_with_model import AtomsWithModel
from itda_lightning.dictionary.named_atoms import Labels

PROMPTS = (
    il.Prompt("a first\nline of text that is longer than thirty characters and", " Peace", " & more"),
    il.Prompt("", "<b>war</b>", " after"),
    il.Prompt("in time of", " peace ", ""),
)


@pytest.fixture
def dictionary():
    table = torch.tensor([[i, i, 3, 40 + i, 8, 12] for i in range(3)])
    metadata: dict[str, Any] = {
        "hook_name": "blocks.1.hook_resid_post",
        "model_name": "a model",
        "dataset_path": "texts.jsonl",
    }
    metadata["validation"] = [{"fvu": 0.5, "l0": 2.0}, {"fvu": 0.25, "l0": 1.5}]
    sources = il.Sources(table, "a dataset", PROMPTS)
    return il.Dictionary(torch.eye(4)[:3], sources=sources, k=2, pursuit="omp", metadata=metadata)


def test_every_method_that_works_in_another_room_works_after_the_import():
    """In a process that imports the package alone, as a notebook does: ``push_to_hub`` once did not."""
    methods = re.findall(r'work_of\("(\w+)"\)', Path(inspect.getfile(AtomsWithModel)).read_text(encoding="utf-8"))
    assert len(methods) == 4
    code = (
        "import itda_lightning; from itda_lightning.machine.late_work import WORK, work_of; "
        "print(*sorted(method for method in WORK if callable(work_of(method))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == sorted(methods)


def test_a_label_is_one_line_with_its_cosine(dictionary):
    assert dictionary.label(0) == f"…{PROMPTS[0].before[-30:]}[ Peace] & more (cosine 1.00)"
    broken = il.Sources(dictionary.source_table[:1], "a dataset", (il.Prompt("a\nb", "c", "d"),))
    assert il.Dictionary(torch.eye(4)[:1], sources=broken, k=1).label(0) == "a b[c]d (cosine 1.00)"
    assert dictionary.label(-1) == "in time of[ peace ] (cosine 1.00)"
    dictionary.relabel(Labels(dictionary.source_table, torch.tensor([0.5, 0.7, 0.914]).double(), PROMPTS))
    assert dictionary.label(2) == "in time of[ peace ] (cosine 0.91)"
    with pytest.raises(il.InputError, match="there is no atom 3: the dictionary has 3, from 0 on"):
        dictionary.label(3)


def test_a_label_without_text_says_where_it_is(dictionary):
    sources = il.Sources(dictionary.source_table, "a dataset")
    bare = il.Dictionary(dictionary.atoms, sources=sources, k=1)
    assert bare.label(1) == "token 41 at position 3 of document 1 (cosine 1.00)"
    assert il.Dictionary(dictionary.atoms, k=1).label(1) == "no label"
    with pytest.raises(il.InputError, match="labels of this dictionary have no text"):
        bare.find("peace")


def test_atoms_are_found_by_token_the_likest_first(dictionary):
    assert dictionary.find("peace") == [0, 2]
    dictionary.relabel(Labels(dictionary.source_table, torch.tensor([0.5, 0.7, 0.9]).double(), PROMPTS))
    assert dictionary.find(" PEACE") == [2, 0]
    assert dictionary.find("treaty") == []


def test_a_dictionary_says_what_it_is(dictionary):
    shown = repr(dictionary)
    for part in ("3 of width 4", "omp, signed, k = 2", "blocks.1.hook_resid_post", "a model", "FVU 0.250, mean L0 1.5"):
        assert part in shown
    assert repr(il.Dictionary(torch.eye(4), k=1)) == "Dictionary(atoms: 4 of width 4; codes: mp, signed, k = 1)"
    table = dictionary._repr_html_()
    assert "&lt;b&gt;war&lt;/b&gt;" in table
    assert "<b>war" not in table
    assert "(cosine 1.00)" in table
