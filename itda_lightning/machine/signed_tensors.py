"""Tensors in one safetensors file with facts and a digest of all of it in its header."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from itda_lightning.machine.atomic_files import write_file
from itda_lightning.machine.digests import BLANK, DIGEST, Signature, check_in_place, sign_in_place

FACTS = "itda_lightning"
LENGTH_BYTES = 8  # of a safetensors file: the length of the header that follows


def header_bytes(path: Path) -> int:
    """Return how many of a safetensors file's first bytes are its header, no more than it has."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
    return min(LENGTH_BYTES + length, path.stat().st_size)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], **facts: Any) -> None:
    """Write tensors and JSON facts in one step. Raises like ``write_file``."""
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    def write(temporary: Path) -> None:
        save_file(own, temporary, {FACTS: json.dumps({**facts, DIGEST: BLANK})})
        sign_in_place(temporary, header_bytes(temporary))

    write_file(path, write)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], Signature]:
    """Read tensors, facts and whether there is a digest. Raises OSError, ValueError or SafetensorError for damage."""
    first = header_bytes(path)  # safetensors calls a file missing that this user may not read
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it cannot be iterated
        facts = json.loads((file.metadata() or {}).get(FACTS, "{}"))
    signature = check_in_place(path, first)
    return tensors, {name: value for name, value in dict(facts).items() if name != DIGEST}, signature
