"""Write a safetensors file part by part, whose tensors need not fit into memory together."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# numpy's dtypes -> those of safetensors; all are little-endian.
NAMES = {"<f2": "F16", "<f4": "F32", "<u2": "U16", "<u4": "U32", "<i8": "I64"}
ALIGNMENT = 8  # bytes: the length of the header is a multiple


class Parts(NamedTuple):
    """A tensor in parts along its first dimension, which are converted to its dtype one by one."""

    dtype: str
    shape: tuple[int, ...]
    parts: Iterable[np.ndarray]


def write_parts(path: Path, tensors: Mapping[str, Parts]) -> None:
    """Write tensors, each in the order of its parts. Raises OSError of a full disk.

    Example:
        >>> import numpy as np, tempfile
        >>> from safetensors.numpy import load_file
        >>> path = Path(tempfile.mkdtemp()) / "numbers.safetensors"
        >>> write_parts(path, {"x": Parts("<f4", (3,), [np.arange(2), np.array([7])])})
        >>> load_file(path)["x"].tolist()
        [0.0, 1.0, 7.0]
    """
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + int(np.prod(tensor.shape)) * np.dtype(tensor.dtype).itemsize
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for tensor in tensors.values():
            for part in tensor.parts:
                file.write(np.ascontiguousarray(part, dtype=tensor.dtype).tobytes())
        assert file.tell() == 8 + len(text) + end, "the parts are not of the shape that was said"
