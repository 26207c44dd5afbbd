"""Local files are told apart by what they hold, and what cannot be read is refused with its cause."""

import bz2
import gzip
import json
import lzma
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset

from itda_lightning.activations.text.documents import load_documents
from itda_lightning.errors import InputError

OLD, NEW = ["one a", "two b"], ["one x", "two y"]  # of the same length


def jsonl(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def parquet(texts: list[str], path: Path) -> bytes:
    Dataset.from_dict({"text": texts}).to_parquet(str(path))
    return path.read_bytes()


WAYS: dict[str, Callable[[list[str]], bytes]] = {
    "a.jsonl": jsonl,
    "a.json": lambda texts: json.dumps([{"text": text} for text in texts]).encode(),
    "a.csv": lambda texts: "\n".join(["text", *texts]).encode(),
    "a.txt": lambda texts: "\n\n".join(texts).encode(),
    "a.jsonl.gz": lambda texts: gzip.compress(jsonl(texts), mtime=0),
    "a.csv.bz2": lambda texts: bz2.compress(WAYS["a.csv"](texts)),
    "a.txt.xz": lambda texts: lzma.compress(WAYS["a.txt"](texts)),
}


def loaded(path: Path, streaming: bool = False) -> list[str]:
    return [text for _, text in load_documents(str(path), streaming=streaming).in_order()]


@pytest.mark.parametrize("name", [*WAYS, "a.parquet"])
def test_a_file_replaced_with_its_time_kept_is_read_anew(name: str, tmp_path: Path) -> None:
    path, read = tmp_path / name, []
    for texts in (OLD, NEW, OLD):
        path.write_bytes(parquet(texts, tmp_path / "made.parquet") if name == "a.parquet" else WAYS[name](texts))
        (tmp_path / "made.parquet").unlink(missing_ok=True)
        os.utime(path, (315532800,) * 2)
        read.append(loaded(path))
        assert loaded(path, streaming=True) == read[-1]
    assert read == [OLD, NEW, OLD]


def test_a_file_of_a_directory_is_told_apart_by_its_content_too(tmp_path: Path) -> None:
    for texts in (OLD, NEW):
        for name, text in zip(("a.txt", "b.txt"), texts, strict=True):
            (tmp_path / name).write_text(text)
            os.utime(tmp_path / name, (315532800,) * 2)
        assert loaded(tmp_path) == texts


def test_a_file_that_is_no_json_any_more_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl(OLD))
    os.utime(path, (315532800,) * 2)
    assert loaded(path) == OLD
    path.write_bytes(b"x" * len(jsonl(OLD)))
    os.utime(path, (315532800,) * 2)
    with pytest.raises(InputError, match=r"cannot load the dataset .*; the file is damaged"):
        loaded(path)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b'{"text": "\xe9t\xe9"}\n'),
        ("a.json", b'[{"text": "\xe9t\xe9"}]'),
        ("a.csv", b"text\n\xe9t\xe9\n"),
        ("a.txt", b"\xe9t\xe9\n"),
        ("b.txt", "text".encode("utf-16")),
        ("a.txt.gz", gzip.compress(b"\xe9t\xe9\n")),
    ],
)
def test_a_text_that_is_not_utf_8_is_refused(name: str, content: bytes, streaming: bool, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        InputError, match=rf"cannot load .*{name}.*(codec can't decode|nvalid).*(UTF-8: convert|damaged)"
    ):
        loaded(tmp_path / name, streaming)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("a.jsonl", jsonl(OLD) + b'{"text": "b', "ArrowInvalid|ValueError"),
        ("a.jsonl", b'"text"\n"more"\n', "ArrowInvalid|ValueError"),
        ("a.json", b"[" * 5000, "depth"),
        ("a.csv", b'text,n\n"a,1\n', "EOF inside string"),
        ("a.parquet", b"PAR1" + bytes(30) + b"PAR1", "thrift"),
        ("a.jsonl.gz", gzip.compress(jsonl(OLD))[:-9], "EOFError"),
        ("a.jsonl.gz", jsonl(OLD), "gzip|ArrowInvalid|magic"),
        ("a.jsonl", b'{"text": "a\\ud800b"}\n', "surrogate"),
    ],
)
def test_the_cause_and_the_remedy_are_said(
    name: str, content: bytes, cause: str, streaming: bool, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"cannot load the dataset .*({cause}).*; the file is damaged, or not of the"):
        loaded(tmp_path / name, streaming)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt", "a.parquet", "a.jsonl.gz"])
def test_a_file_without_any_byte_is_empty(name: str, streaming: bool, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=rf"the dataset .*{name}' \(split 'train'\) is empty: give one with documents"):
        loaded(tmp_path / name, streaming)


def test_the_damaged_file_of_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl(OLD))
    (tmp_path / "b.jsonl").write_bytes(b'{"text": \n')
    (tmp_path / "c.jsonl").touch()
    with pytest.raises(InputError, match=r"cannot load the dataset '.*b\.jsonl'"):
        loaded(tmp_path)
    (tmp_path / "b.jsonl").write_bytes(jsonl(NEW))
    assert loaded(tmp_path) == OLD + NEW


@pytest.mark.parametrize("streaming", [False, True])
def test_csv_texts_stay_what_they_are(streaming: bool, tmp_path: Path) -> None:
    texts = ["NA", "null", "None", "nan", "", "7", "007", "1e3", "true", "  a "]
    (tmp_path / "a.csv").write_text("n,text\n" + "".join(f"{n or ''},{text}\n" for n, text in enumerate(texts)))
    assert loaded(tmp_path / "a.csv", streaming) == texts


@pytest.mark.parametrize("streaming", [False, True])
def test_a_byte_order_mark_is_no_text(streaming: bool, tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.csv", "a.txt"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + WAYS[name](OLD))
        assert loaded(tmp_path / name, streaming) == OLD
        (tmp_path / name).unlink()


@pytest.mark.parametrize("name", ["x" * 300, "~nobody-of-this-name/a.jsonl", "a\0b", "."])
def test_a_name_that_is_no_path_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"which no path can have|255 bytes|home directory|holds files of types \[\]"):
        load_documents(name)


@pytest.mark.parametrize("name", [*WAYS, "a.parquet"])
def test_damage_anywhere_is_refused_or_read(name: str, tmp_path: Path) -> None:
    """Cut and changed bytes never end in any other exception."""
    random_numbers = random.Random(0)
    texts = [f"document {index} é" for index in range(6)]
    whole = parquet(texts, tmp_path / "made.parquet") if name == "a.parquet" else WAYS[name](texts)
    (tmp_path / "made.parquet").unlink(missing_ok=True)
    for turn in range(12):
        content = bytearray(whole)
        if turn % 3 == 0:
            del content[random_numbers.randrange(len(content)) :]
        else:
            for _ in range(turn):
                content[random_numbers.randrange(len(content))] = random_numbers.randrange(256)
        (tmp_path / name).write_bytes(content)
        try:
            assert all(isinstance(text, str) for text in loaded(tmp_path / name, streaming=turn % 2 == 0))
        except InputError as error:
            assert "; " in str(error) or ": " in str(error)  # noqa: PT017
