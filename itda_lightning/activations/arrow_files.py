"""Arrow files of activations: a row has an array (positions, d) per column, and its tokens; `datasets` reads them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Array2D, Dataset, Features, Sequence, Value, load_from_disk
from datasets.arrow_writer import ArrowWriter

TOKENS = "token_ids"
# What reading a truncated, damaged or foreign file raises.
UNREADABLE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    MemoryError,
    pa.ArrowException,
)


def features_of(widths: Mapping[str, int], positions: int, dtype: str) -> Features:
    """Return the features of files with columns of these widths d."""
    columns: dict[str, Any] = {column: Array2D((positions, d), dtype) for column, d in widths.items()}
    return Features(columns | {TOKENS: Sequence(Value("int32"), length=positions)})


def write_table(path: Path, features: Features, parts: Iterable[dict[str, np.ndarray]]) -> None:
    """Write one file of consecutive rows, part by part."""
    writer = ArrowWriter(features=features, path=str(path))
    for part in parts:
        writer.write_batch(part)
    writer.finalize()
    writer.close()


def open_table(directory: Path) -> Dataset:
    """Open the files of a directory as one table of arrays. Raises one of ``UNREADABLE``."""
    return load_from_disk(str(directory)).with_format("numpy")
