"""Local files of documents: which are read, and by what; files are told apart by their contents."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets.config
import xxhash
from datasets import Dataset, DatasetDict, IterableDataset, load_dataset, load_from_disk

from itda_lightning.errors import InputError

# Suffix of local files -> loader of `datasets`.
LOADERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv", ".txt": "text"}
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


@dataclass(frozen=True)
class TextFiles:
    """Files of one type that hold documents: a file, or all of its type in a directory, in the order of their names.

    Raises InputError for files of no known type or of several.
    """

    path: Path
    text_column: str

    def __post_init__(self) -> None:
        types = {file: suffix_of(file) for file in self._candidates()}
        if len({suffix for suffix in types.values() if suffix}) != 1:
            held = sorted({file.suffix for file in types})
            raise InputError(
                f"{self.path} holds files of types {held}: give files of one of the types {sorted(LOADERS)}, which may "
                f"be compressed ({', '.join(COMPRESSED)})"
            )

    @property
    def files(self) -> list[Path]:
        """The files that are read; empty ones hold no documents."""
        return [file for file in self._candidates() if suffix_of(file) and file.stat().st_size]

    def load(self, split: str, streaming: bool) -> Dataset | IterableDataset:
        """Open the documents. Raises what `datasets` raises for damaged files."""
        files = self.files
        suffix = suffix_of(files[0])
        options: dict[str, Any] = {}
        if suffix == ".txt":
            sample_by = "document" if self.path.is_dir() else "paragraph"
            options = {"sample_by": sample_by, "encoding": "utf-8-sig"}  # without the byte order mark, if there is one
        elif suffix == ".csv" and self.text_column in _columns(files[0]):
            # A text may be "NA", "null" or a number; what other columns hold does not matter.
            options = {"usecols": [self.text_column], "converters": {self.text_column: str}, "keep_default_na": False}
        if not streaming:
            # `datasets` knows files by path and time, which copying and unpacking can set to those of earlier ones.
            options["cache_dir"] = str(Path(datasets.config.HF_DATASETS_CACHE) / "local" / digest_of(files))
        names = [str(file) for file in files]
        return load_dataset(LOADERS[suffix], data_files=names, split=split, streaming=streaming, **options)

    def damaged(self) -> Path | None:
        """Return the first file that cannot be read, among several; None if each can be read alone."""
        for file in self.files if len(self.files) > 1 else []:
            try:
                for document in TextFiles(file, self.text_column).load("train", streaming=True):
                    str(document)
            except Exception:  # `datasets` raises many unrelated types
                return file
        return None

    def _candidates(self) -> list[Path]:
        return sorted(self.path.iterdir()) if self.path.is_dir() else [self.path]


def _columns(file: Path) -> list[str]:
    """Return the columns of a csv file; an empty one has none."""
    return list(next(iter(load_dataset("csv", data_files=[str(file)], split="train", streaming=True)), {}))


def suffix_of(file: Path) -> str:
    """Return the suffix that names the type of a file, compressed or not; empty for no known type."""
    suffix = Path(file.stem).suffix if file.suffix in COMPRESSED else file.suffix
    return suffix if suffix in LOADERS else ""


def digest_of(files: list[Path]) -> str:
    """Hash the contents of files in their order, with their lengths."""
    digest = xxhash.xxh3_128()
    for file in files:
        digest.update(file.stat().st_size.to_bytes(8, "little"))
        with file.open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
    return digest.hexdigest()


def is_saved(path: Path) -> bool:
    """Return True if a directory holds a saved ``Dataset`` or ``DatasetDict``."""
    return path.is_dir() and any((path / marker).exists() for marker in ("state.json", "dataset_dict.json"))


def load_saved(path: Path, split: str, streaming: bool) -> Dataset | IterableDataset:
    """Open a saved ``Dataset``, or a split of a saved ``DatasetDict``. Raises InputError without that split."""
    saved = load_from_disk(str(path))
    if isinstance(saved, DatasetDict):
        if split not in saved:
            raise InputError(f"{path} has no split {split!r}: its splits are {sorted(saved)}")
        saved = saved[split]
    elif split not in ("train", str(saved.split)):
        raise InputError(f"{path} is one saved Dataset and has no split {split!r}: leave dataset_split=train")
    return saved.to_iterable_dataset() if streaming else saved
