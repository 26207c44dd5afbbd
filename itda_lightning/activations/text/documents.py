"""Documents: the texts of a dataset, ordered and indexed, with a fingerprint."""

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from itda_lightning.activations.bundled import resolve
from itda_lightning.errors import InputError
from itda_lightning.machine.memory import TOO_LITTLE_MEMORY, is_out_of_memory
from itda_lightning.machine.paths import is_meant_as_path, user_path

FINGERPRINT_DOCUMENTS = 256


class Documents:
    """The texts of one split of a ``Dataset`` or ``IterableDataset``, by their index.

    ``fingerprint`` hashes the first 256 texts: it is the same in any form and place, so that dictionaries of different
    runs, machines and models can be compared.
    """

    def __init__(self, dataset: Any, text_column: str, name: str) -> None:
        # A stream has its columns in its first document; an empty one has none.
        columns = dataset.column_names or list(next(_readable(dataset, name), {}))
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
        for index, document in enumerate(_readable(self.dataset, self.name)):
            yield index, self._text(index, document[self.text_column])

    def shuffled(self, seed: int) -> Iterator[tuple[int, str]]:
        """Yield (index, text) in an order that depends on the seed alone; a stream keeps its order."""
        if not hasattr(self.dataset, "__len__"):  # a stream
            yield from self.in_order()
            return
        order = np.random.default_rng(seed).permutation(len(self.dataset)).tolist()
        documents = _readable((self.dataset[index] for index in order), self.name)
        for index, document in zip(order, documents, strict=True):
            yield index, self._text(index, document[self.text_column])

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

    Files may be compressed. A txt file is cut at blank lines; in a directory of txt files each file is a document.
    ``config`` and ``revision`` are those of a hub dataset. Raises InputError for what cannot be read, has no such split
    or column, or is empty.
    """
    # `datasets` takes a second to import, for which whoever opens no documents need not wait.
    from datasets import load_dataset

    from itda_lightning.activations.text.text_files import TextFiles, is_saved, load_saved, suffix_of

    empty = InputError(f"the dataset {dataset!r} (split {split!r}) is empty: give one with documents")
    files = None
    try:
        path = user_path(resolve(dataset), "data.dataset")
        if is_saved(path):
            loaded = load_saved(path, split, streaming)
        elif path.exists():
            files = TextFiles(path, text_column)
            if not files.files:
                raise empty
            loaded = files.load(split, streaming)
        elif is_meant_as_path(dataset) or suffix_of(path):
            raise InputError(
                f"cannot load the dataset {dataset!r}: there is no such file or directory; check the spelling, or the "
                "directory that this runs in"
            )
        else:
            loaded = load_dataset(dataset, config, split=split, streaming=streaming, revision=revision)
        documents = Documents(loaded, text_column, dataset)
    except InputError:
        raise
    except Exception as error:  # `datasets` raises many unrelated types
        if "corresponds to no data" in str(error):
            raise empty from error
        damaged = None if files is None else files.damaged()
        name = dataset if damaged is None else str(damaged)
        raise _unreadable(name, error, f" (split {split!r})") from error
    if next(documents.in_order(), None) is None:
        raise empty
    return documents


def _readable(documents: Iterable[Any], name: str) -> Iterator[Any]:
    """Yield documents as they are read. Raises InputError for one that cannot be read."""
    reading = iter(documents)
    while True:
        try:
            document = next(reading)
        except StopIteration:
            return
        except Exception as error:  # a damaged file is read up to the damage
            raise _unreadable(name, error) from error
        yield document


def _unreadable(name: str, error: BaseException, split: str = "") -> InputError:
    """Return the error for a dataset that cannot be read, with the first cause and the remedy for it."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if is_out_of_memory(error):
        return InputError(f"reading the dataset {name!r}{split} {TOO_LITTLE_MEMORY} ({type(error).__name__}: {error})")
    reason = f"cannot load the dataset {name!r}{split}: {type(cause).__name__}: {' '.join(str(cause).split())}"
    if isinstance(cause, UnicodeError):
        return InputError(f"{reason}; its text is not UTF-8: convert it, e.g. by `iconv -f latin1 -t utf-8`")
    if isinstance(cause, OSError) and cause.errno is not None:
        return InputError(f"{reason}; check the path, its permissions and the space on the disk")
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # what cannot be a path
        if Path(name).expanduser().exists():
            return InputError(f"{reason}; the file is damaged, or not of the type that its name says: write it again")
    return InputError(
        f"{reason}; give a hub name that is reachable, a jsonl/json/parquet/csv/txt file, a directory of them or a "
        "saved Dataset"
    )
