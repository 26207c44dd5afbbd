"""Documents: the texts of a dataset, ordered and indexed, with a fingerprint."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from datasets import Dataset, DatasetDict, IterableDataset, load_dataset, load_from_disk

from itda_lightning.activations.bundled import resolve
from itda_lightning.errors import InputError

# Suffix of local files -> loader of `datasets`.
LOADERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv", ".txt": "text"}
FINGERPRINT_DOCUMENTS = 256


class Documents:
    """The texts of one split of a dataset, by their index.

    ``fingerprint`` hashes the first 256 texts: it is the same in any form and place, so that dictionaries of different
    runs, machines and models can be compared.
    """

    def __init__(self, dataset: Dataset | IterableDataset, text_column: str, name: str) -> None:
        # A stream has its columns in its first document; an empty one has none.
        columns = dataset.column_names or list(next(iter(dataset), {}))
        if columns and text_column not in columns:
            raise InputError(f"the dataset {name} has no column {text_column!r}: its columns are {sorted(columns)}")
        # Other columns are not decoded: they may be long, or images.
        self.dataset = dataset.select_columns([text_column]) if columns else dataset
        self.text_column, self.name = text_column, name
        digest = xxhash.xxh3_128()
        for _, text in itertools.islice(self.in_order(), FINGERPRINT_DOCUMENTS):
            digest.update(len(text.encode()).to_bytes(8, "little") + text.encode())
        self.fingerprint = digest.hexdigest()

    def in_order(self) -> Iterator[tuple[int, str]]:
        """Yield (index, text) of every document in the dataset's order; a missing text is an empty string."""
        for index, document in enumerate(self.dataset):
            yield index, self._text(index, document[self.text_column])

    def shuffled(self, seed: int) -> Iterator[tuple[int, str]]:
        """Yield (index, text) in an order that depends on the seed alone; a stream keeps its order."""
        if isinstance(self.dataset, IterableDataset):
            yield from self.in_order()
            return
        for index in np.random.default_rng(seed).permutation(len(self.dataset)).tolist():
            yield index, self._text(index, self.dataset[index][self.text_column])

    def _text(self, index: int, value: Any) -> str:
        if value is None:
            return ""
        if not isinstance(value, str):
            raise InputError(
                f"column {self.text_column!r} of {self.name} holds {type(value).__name__} in document {index}: "
                "name a column of texts"
            )
        return value


def load_documents(
    dataset: str,
    *,
    config: str | None = None,
    split: str = "train",
    text_column: str = "text",
    streaming: bool = False,
    revision: str | None = None,
) -> Documents:
    """Open the documents of a hub dataset, a saved ``Dataset``, or local jsonl/json/parquet/csv/txt files.

    A txt file is cut at blank lines; in a directory of txt files each file is a document. ``config`` and ``revision``
    are those of a hub dataset. Raises InputError for what cannot be read, has no such split or column, or is empty.
    """
    path = Path(resolve(dataset)).expanduser()
    empty = f"the dataset {dataset!r} (split {split!r}) is empty: give one with documents"
    try:
        loaded = (
            _load_local(path, streaming, split)
            if path.exists()
            else load_dataset(dataset, config, split=split, streaming=streaming, revision=revision)
        )
    except InputError:
        raise
    except Exception as error:  # `datasets` raises many unrelated types
        if "corresponds to no data" in str(error):
            raise InputError(empty) from error
        raise InputError(
            f"cannot load the dataset {dataset!r} (split {split!r}): {type(error).__name__}: {error}; give a hub name "
            "that is reachable, a jsonl/json/parquet/csv/txt file, a directory of them or a saved Dataset"
        ) from error
    documents = Documents(loaded, text_column, dataset)
    if next(documents.in_order(), None) is None:
        raise InputError(empty)
    return documents


def _load_local(path: Path, streaming: bool, split: str) -> Dataset | IterableDataset:
    if path.is_dir() and any((path / marker).exists() for marker in ("state.json", "dataset_dict.json")):
        saved = load_from_disk(str(path))
        if isinstance(saved, DatasetDict):
            if split not in saved:
                raise InputError(f"{path} has no split {split!r}: its splits are {sorted(saved)}")
            saved = saved[split]
        elif split not in ("train", str(saved.split)):
            raise InputError(f"{path} is one saved Dataset and has no split {split!r}: leave dataset_split=train")
        return saved.to_iterable_dataset() if streaming else saved
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    suffixes = {file.suffix for file in files if file.suffix in LOADERS}
    if len(suffixes) != 1:
        types = sorted({file.suffix for file in files})
        raise InputError(f"{path} holds files of types {types}: give files of one of the types {sorted(LOADERS)}")
    suffix = suffixes.pop()
    options = {"sample_by": "document" if path.is_dir() else "paragraph"} if suffix == ".txt" else {}
    chosen = [str(file) for file in files if file.suffix == suffix]
    return load_dataset(LOADERS[suffix], data_files=chosen, split=split, streaming=streaming, **options)
