"""Read weights from the safetensors shards of a model directory, tensor by tensor, never mapped into memory."""

import json
import math
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import torch
import xxhash
from jaxtyping import UInt8
from torch import Tensor

from itda_lightning.errors import InputError
from itda_lightning.machine.atomic_files import write_json
from itda_lightning.machine.digests import read_signed_json
from itda_lightning.machine.schema import check_schema

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
# https://huggingface.co/docs/safetensors: 8 bytes for the length of a JSON header, the header, then the tensors' bytes.
LENGTH_BYTES, LONGEST_HEADER = 8, 100_000_000
# Tensors in a reused buffer are aligned like memory that torch allocates.
ALIGNMENT = 64
# Bytes per read: the checksum then finds them in the processor's cache.
PIECE = 2**20
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class StoredTensor:
    """The place of a tensor: ``size`` bytes from byte ``start`` of ``file``."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    size: int


class WeightFiles:
    """The tensors of a model directory by their names in its files.

    The constructor reads only headers; ``read`` reads tensors into memory of their own, so that the process holds those
    in use and no others. Raises InputError for shards that are missing, truncated, damaged or not safetensors.
    """

    def __init__(self, directory: Path) -> None:
        self.tensors: dict[str, StoredTensor] = {}
        for file in _shards(directory):
            self.tensors |= _header(file)
        self._digests: dict[str, str] = {}
        self._digests_file: Path | None = None

    def check_by(self, digests: Path) -> None:
        """Compare tensors read from now on with the checksums in a file, and add missing ones to it."""
        self._digests_file = digests
        if digests.exists():
            remedy = "remove it, and check the files of the model"
            self._digests = check_schema(read_signed_json(digests, remedy), dict[str, str], str(digests), remedy)

    def size_bytes(self, names: list[str]) -> int:
        """Return the bytes of these tensors on disk."""
        return sum(self.tensors[name].size for name in names)

    def memory_bytes(self, names: list[str]) -> int:
        """Return the bytes of memory that ``read`` needs for these tensors."""
        return sum(map(self._aligned_bytes, names))

    def read(self, names: list[str], memory: UInt8[Tensor, " bytes"] | None = None) -> dict[str, Tensor]:
        """Read tensors by name, onto the CPU, in their stored dtype.

        ``memory`` is a buffer of at least ``memory_bytes``; None allocates one, which may take several times as long as
        reading. Raises InputError for a shard that ends early, or a tensor that has changed since it was first read.
        """
        left = torch.empty(self.memory_bytes(names), dtype=torch.uint8) if memory is None else memory
        read = {}
        for name in names:
            read[name] = self._read(name, left[: self.tensors[name].size])
            left = left[self._aligned_bytes(name) :]
        if self._digests_file is not None:
            write_json(self._digests_file, self._digests, ())
        return read

    def _aligned_bytes(self, name: str) -> int:
        return -(-self.tensors[name].size // ALIGNMENT) * ALIGNMENT

    def _read(self, name: str, content: UInt8[Tensor, " bytes"]) -> Tensor:
        stored = self.tensors[name]
        with stored.file.open("rb", buffering=0) as stream:
            stream.seek(stored.start)
            digest = fill(stream, content)
        if digest is None:
            raise _damaged(stored.file, f"it ends within {name}")
        if self._digests_file is not None and self._digests.setdefault(name, digest.hex()) != digest.hex():
            raise _damaged(stored.file, f"{name} has changed since it was first read")
        return content.view(stored.dtype).reshape(stored.shape)


def fill(stream: FileIO, content: UInt8[Tensor, " bytes"]) -> bytes | None:
    """Fill memory from a file and return the checksum of what was read; None if the file ends early."""
    view, digest, done = content.numpy().data, xxhash.xxh3_128(), 0
    while done < len(view):
        count = stream.readinto(view[done : done + PIECE])
        if not count:
            return None
        digest.update(view[done : done + count])
        done += count
    return digest.digest()


def _shards(directory: Path) -> list[Path]:
    index = directory / INDEX
    if not index.exists():
        if not (directory / SINGLE).exists():
            raise InputError(
                f"{directory} holds neither {INDEX} nor {SINGLE}: weights are streamed from safetensors only; save the "
                "model with save_pretrained, or set backend=in_memory"
            )
        return [directory / SINGLE]
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{index} is not an index of safetensors shards ({error!r}): download it again") from error
    missing = [name for name in names if not (directory / name).exists()]
    if missing:
        raise InputError(
            f"{directory} lacks {len(missing)} of the {len(names)} shards that its index names: "
            f"{', '.join(missing[:4])}{', ...' if len(missing) > 4 else ''}; download them"
        )
    return [directory / name for name in names]


def _header(file: Path) -> dict[str, StoredTensor]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
        if not 0 < length <= min(size - LENGTH_BYTES, LONGEST_HEADER):
            raise _damaged(file, f"its header should have {length:,} bytes")
        header = stream.read(length)
    start, tensors = LENGTH_BYTES + length, {}
    try:
        for name, entry in json.loads(header).items():
            if name == "__metadata__":
                continue
            first, last = entry["data_offsets"]
            dtype, shape = DTYPES.get(entry["dtype"]), tuple(entry["shape"])
            if dtype is None:
                raise InputError(
                    f"{file} holds {name} as {entry['dtype']}, which is not streamed: dequantise the model to bfloat16"
                )
            if last - first != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"{name} of shape {shape} cannot have {last - first} bytes")
            tensors[name] = StoredTensor(file, dtype, shape, start + first, last - first)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise _damaged(file, f"its header is no safetensors header: {error}") from error
    end = max((tensor.start + tensor.size for tensor in tensors.values()), default=start)
    if end != size:
        raise _damaged(file, f"it has {size:,} bytes and should have {end:,}")
    return tensors


def _damaged(file: Path, how: str) -> InputError:
    return InputError(f"the weight file {file} is truncated or damaged ({how}): download it again")
