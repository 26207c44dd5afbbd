"""Saved dictionaries: bit for bit what they were, never overwritten, and refused with a reason when damaged."""

import errno
import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from itda_lightning.dictionary import dictionary_files
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.dictionary_files import FORMAT_VERSION, INDEX_FILE, TENSORS_FILE
from itda_lightning.dictionary.sources import Sources
from itda_lightning.errors import InputError
from itda_lightning.machine.digests import DIGEST
from tests.dictionary.test_dictionary import activations, sources_of, table_of, unit_rows


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "saved"
    Dictionary(unit_rows(5, 4), torch.arange(4.0), sources_of(5), k=3, metadata={"x": 1}).save(path)
    return path


def edit_index(path: Path, **changes: object) -> None:
    index = json.loads((path / INDEX_FILE).read_text())
    (path / INDEX_FILE).write_text(json.dumps(index | changes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("with_sources", ["prompts", "indices", None])
def test_loading_gives_what_was_saved_bit_for_bit(tmp_path, dtype, with_sources):
    sources = {"prompts": sources_of(5), "indices": Sources(table_of(5), "data"), None: None}[with_sources]
    metadata = {"hook_name": "blocks.1", "number": 1.5, "nested": {"list": [1, None, "☃"]}}
    original = Dictionary(
        unit_rows(5, 4), torch.randn(4), sources, k=3, pursuit="omp", nonnegative=True, capacity=9, metadata=metadata
    ).to(dtype)
    original.save(tmp_path / "a" / "saved")
    loaded = Dictionary.load(tmp_path / "a" / "saved")
    assert loaded.atoms.dtype == loaded.bias.dtype == dtype
    assert torch.equal(loaded.atoms, original.atoms)
    assert torch.equal(loaded.bias, original.bias)
    assert (loaded.n_atoms, loaded.capacity) == (5, 5)
    for name in ("k", "pursuit", "nonnegative", "metadata", "dataset", "prompts"):
        assert getattr(loaded, name) == getattr(original, name)
    assert (loaded.sources is None) == (sources is None)
    if sources is not None:
        assert torch.equal(loaded.sources.table, sources.table)
        assert loaded.sources.prompts == sources.prompts
    code, expected = (d.encode(activations(6, 4, dtype=dtype)) for d in (loaded, original))
    assert torch.equal(code.support, expected.support)


def test_saving_twice_writes_the_same_bytes(saved, tmp_path):
    Dictionary.load(saved).save(tmp_path / "again")
    for name in (INDEX_FILE, TENSORS_FILE):
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()


def test_an_empty_dictionary_is_saved_and_loaded(tmp_path):
    Dictionary(torch.zeros(0, 4), k=2, capacity=3).save(str(tmp_path / "saved"))
    assert Dictionary.load(str(tmp_path / "saved")).atoms.shape == (0, 4)


def test_nothing_is_overwritten(saved):
    before = (saved / TENSORS_FILE).read_bytes()
    with pytest.raises(
        InputError, match=r"saved exists already: choose another path or remove it first, nothing is over"
    ):
        Dictionary(unit_rows(2, 4), k=1).save(saved)
    assert (saved / TENSORS_FILE).read_bytes() == before


def test_a_path_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(
        InputError, match=r"^not permitted while writing .*file/saved \(Not a directory\): choose another"
    ):
        Dictionary(unit_rows(2, 4), k=1).save(tmp_path / "file" / "saved")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
    ids=["system", "safetensors"],
)
@pytest.mark.parametrize("writer", ["save_file", "write_json"])
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, error, writer):
    def full(*args: object) -> None:
        raise error

    monkeypatch.setattr(dictionary_files, writer, full)
    with pytest.raises(
        InputError, match=r"^no space left while writing .*saved: free some space or choose another place"
    ):
        Dictionary(unit_rows(2, 4), k=1).save(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_metadata_that_is_no_json_leaves_nothing(tmp_path):
    for value, error in ((float("nan"), ValueError), (object(), TypeError)):
        with pytest.raises(error, match="JSON"):
            Dictionary(unit_rows(2, 4), k=1, metadata={"x": value}).save(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_no_dictionary_there(tmp_path):
    message = (
        r"none does not hold a whole dictionary \(dictionary\.json and dictionary\.safetensors\): .*; save it again$"
    )
    with pytest.raises(InputError, match=message):
        Dictionary.load(tmp_path / "none")


@pytest.mark.parametrize("name", [INDEX_FILE, TENSORS_FILE])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "by one byte"])
def test_damaged_files_are_refused(saved, name, damage):
    whole = (saved / name).read_bytes()
    (saved / name).unlink()
    if damage != "missing":
        (saved / name).write_bytes(whole[: {"empty": 0, "truncated": len(whole) // 2, "by one byte": -1}[damage]])
    with pytest.raises(
        InputError, match=r"saved does not hold a whole dictionary \(dictionary\.json and .*; save it again$"
    ):
        Dictionary.load(saved)


@pytest.mark.parametrize("content", ["[]", "3", "{}", '{"format": "another"}', "null"])
def test_another_programs_json_is_refused(saved, content):
    (saved / INDEX_FILE).write_text(content)
    with pytest.raises(
        InputError, match=r"saved was not written by Dictionary\.save: dictionary\.json has no such format"
    ):
        Dictionary.load(saved)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have_are_refused(saved, constant):
    edit_index(saved, metadata={"note": "here"}, **{"itda_lightning.digest": "none"})
    text = (saved / INDEX_FILE).read_text().replace('"here"', constant)
    (saved / INDEX_FILE).write_text(text)
    with pytest.raises(
        InputError, match=rf"does not hold a whole dictionary \(.*\): {constant} is no JSON; save it again"
    ):
        Dictionary.load(saved)


def test_a_newer_version_is_refused_even_if_it_has_other_fields(saved):
    newer = {"format": "itda_lightning.dictionary", "version": FORMAT_VERSION + 1}
    (saved / INDEX_FILE).write_text(json.dumps(newer))
    with pytest.raises(
        InputError,
        match=rf"saved has format version {FORMAT_VERSION + 1}, this package reads up to {FORMAT_VERSION}: upgrade it$",
    ):
        Dictionary.load(saved)


@pytest.mark.parametrize("field", ["version", "k", "pursuit", "nonnegative", "dataset", "prompts", "metadata"])
def test_a_missing_field_is_named(saved, field):
    index = json.loads((saved / INDEX_FILE).read_text())
    del index[field]
    (saved / INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(
        InputError, match=rf"saved does not hold a whole dictionary: \['{field}'\] are missing; save it"
    ):
        Dictionary.load(saved)


@pytest.mark.parametrize("name", ["atoms", "bias", "sources"])
def test_a_missing_tensor_is_named(saved, name):
    tensors = load_file(saved / TENSORS_FILE)
    del tensors[name]
    save_file(tensors, saved / TENSORS_FILE)
    with pytest.raises(InputError, match=rf"saved does not hold a whole dictionary: \['{name}'\] are missing; save it"):
        Dictionary.load(saved)


@pytest.mark.parametrize(
    "changes",
    [
        {"k": 0},
        {"k": "many"},
        {"pursuit": "lasso"},
        {"prompts": [["a", "b"]]},
        {"prompts": [["a", "b", "c"]]},
        {"prompts": 3},
    ],
)
def test_settings_that_make_no_dictionary_are_refused(saved, changes):
    edit_index(saved, **changes)
    with pytest.raises(InputError, match=r"saved does not hold a valid dictionary: (?s:.*); save it again$"):
        Dictionary.load(saved)


@pytest.mark.parametrize(
    "changes",
    [{"atoms": 2 * unit_rows(5, 4)}, {"bias": torch.zeros(3)}, {"sources": table_of(4)}, {"atoms": torch.ones(4)}],
)
def test_tensors_that_make_no_dictionary_are_refused(saved, changes):
    save_file(load_file(saved / TENSORS_FILE) | changes, saved / TENSORS_FILE)
    with pytest.raises(InputError, match=r"saved does not hold a valid dictionary: (?s:.*); save it again$"):
        Dictionary.load(saved)


def test_a_dictionary_without_a_digest_is_read_with_one_line_of_warning(saved, caplog):
    index = json.loads((saved / INDEX_FILE).read_text())
    Dictionary.load(saved)
    assert caplog.messages == []
    (saved / INDEX_FILE).write_text(json.dumps({name: index[name] for name in index if name != DIGEST}))
    assert Dictionary.load(saved).n_atoms == 5
    assert caplog.messages == [
        f"{saved} has no digest (an earlier version or another program wrote it): damage would not show"
    ]
