"""Refined dictionaries keep the grown atoms and the cosines: saved, exported, logged."""

import json
from inspect import unwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import wandb
from lightning.pytorch.loggers import WandbLogger
from safetensors.torch import load_file
from torch.nn.functional import normalize

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.dictionary_files import INDEX_FILE, TENSORS_FILE
from itda_lightning.errors import InputError
from itda_lightning.fitting.wandb_logger import log_dictionary
from itda_lightning.growth import project_on_cones
from itda_lightning.saelens import from_sae, load_export, save_export, to_sae
from tests.dictionary.test_dictionary import sources_of, table_of, unit_rows
from tests.fits import HOOK

ANCHOR = 0.9


def refined_dictionary(n: int = 12, d: int = 16, seed: int = 0, **others: Any) -> Dictionary:
    """A dictionary whose atoms lie in their cones, as a refinement leaves them."""
    grown = unit_rows(n, d, seed)
    made = Dictionary(
        grown, torch.arange(float(d)), sources_of(n), **({"k": 3, "metadata": {"hook_name": HOOK}} | others)
    )
    made.refine(project_on_cones(grown + unit_rows(n, d, seed + 1), grown, ANCHOR))
    return made


def assert_same(one: Dictionary, other: Dictionary) -> None:
    for name in ("atoms", "grown_atoms", "bias", "source_table", "labels"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert (one.cosines is None) == (other.cosines is None)
    if one.cosines is not None:
        assert torch.equal(one.cosines, other.cosines)
        assert torch.equal(one.label_cosines, other.label_cosines)
    assert (one.prompts, one.label_prompts) == (other.prompts, other.label_prompts)
    assert (one.relabelled is None) == (other.relabelled is None)
    assert one.metadata == other.metadata


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_saving_and_loading_keep_cosines_and_grown_atoms(tmp_path, dtype):
    made = refined_dictionary().to(dtype)
    made.save(tmp_path / "saved")
    loaded = Dictionary.load(tmp_path / "saved")
    assert_same(loaded, made)
    assert loaded.grown_atoms.dtype == dtype
    tensors = load_file(tmp_path / "saved" / TENSORS_FILE)
    assert torch.equal(tensors["cosines"], made.cosines)
    assert json.loads((tmp_path / "saved" / INDEX_FILE).read_text())["version"] == 2
    made.unrefined().save(tmp_path / "unrefined")
    assert json.loads((tmp_path / "unrefined" / INDEX_FILE).read_text())["version"] == 1
    assert set(load_file(tmp_path / "unrefined" / TENSORS_FILE)) == {"atoms", "bias", "sources"}


@pytest.mark.parametrize("architecture", ["itda", "matching_pursuit"])
def test_exports_keep_cosines_and_grown_atoms(tmp_path, architecture):
    made = refined_dictionary()
    assert_same(from_sae(to_sae(made, architecture)), made)
    save_export(made, tmp_path / "export", architecture)
    assert_same(load_export(tmp_path / "export"), made)
    content = json.loads((tmp_path / "export" / "cfg.json").read_text())["metadata"]["itda"]
    assert content["cosines"] == made.cosines.tolist()
    save_export(made, tmp_path / "half", architecture, "bfloat16")
    half = load_export(tmp_path / "half")
    assert torch.equal(half.unrefined().atoms, made.grown_atoms)
    assert float((half.cosines - made.cosines).abs().max()) < 0.01


@pytest.mark.parametrize("damage", [{"dtype": "torch.int8"}, {"base64": "AAA"}, {"shape": [3, 16]}, {"shape": None}])
def test_damaged_grown_atoms_in_an_export_are_refused(damage):
    sae = to_sae(refined_dictionary())
    sae.cfg.metadata["itda"]["grown"] |= damage
    with pytest.raises(InputError, match="export it again"):
        from_sae(sae)


def test_codes_are_those_of_the_refined_atoms():
    grown = unit_rows(12, 16)
    dictionary = Dictionary(grown, k=3)
    x = unit_rows(40, 16, 5)
    before = dictionary.encode(x)  # the Gram of the grown atoms is kept from now on
    atoms = project_on_cones(grown + unit_rows(12, 16, 1), grown, ANCHOR)
    dictionary.refine(atoms)
    expected = Dictionary(atoms, k=3).encode(x)
    assert all(torch.equal(*pair) for pair in zip(dictionary.encode(x), expected, strict=True))
    assert all(torch.equal(*pair) for pair in zip(dictionary.unrefined().encode(x), before, strict=True))


def test_what_is_no_refinement_is_refused():
    dictionary = refined_dictionary()
    with pytest.raises(InputError, match=r"a refined dictionary does not grow: append to dictionary.unrefined\(\)"):
        dictionary.append(unit_rows(1, 16), table_of(1))
    with pytest.raises(InputError, match=r"refined atoms must have the shape \(12, 16\), got \(11, 16\)"):
        dictionary.refine(unit_rows(11, 16))
    with pytest.raises(ValueError, match="atoms must be unit rows: row 0"):
        dictionary.refine(2 * unit_rows(12, 16))
    with pytest.raises(InputError, match=r"grown atoms must have the shape of the atoms \(12, 16\), got \(12, 15\)"):
        unwrap(Dictionary.__init__)(
            Dictionary.__new__(Dictionary), unit_rows(12, 16), k=1, grown=normalize(torch.randn(12, 15), dim=1)
        )
    dictionary.refine(dictionary.grown_atoms)
    assert float(dictionary.cosines.min()) == pytest.approx(1)


def test_the_table_of_wandb_has_the_cosines(monkeypatch):
    logged: dict[str, Any] = {}

    class Logger(WandbLogger):
        experiment = SimpleNamespace(log=logged.update, log_artifact=lambda _: None)

        def __init__(self) -> None:
            pass

    made = refined_dictionary()
    monkeypatch.setattr(wandb.Artifact, "add_dir", lambda *_: None)
    log_dictionary(Logger(), made, Path())
    table = logged[f"atoms/{HOOK}"]
    assert table.columns == ["atom", "before", "token", "after", "cosine", "document", "position"]
    assert [row[4] for row in table.data] == made.cosines.tolist()
