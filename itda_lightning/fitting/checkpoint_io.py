"""Lightning checkpoints as one safetensors file: tensors as they are, everything else as JSON in its header.

The file holds data only, no pickle; it is written in one step, and a digest in its header covers all of it.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from itda_lightning.errors import InputError
from itda_lightning.machine.atomic_files import write_file
from itda_lightning.machine.digests import (
    BLANK,
    DIGEST,
    DamagedError,
    Signature,
    check_in_place,
    reason,
    sign_in_place,
    warn_unsigned,
)
from itda_lightning.machine.paths import without_home
from itda_lightning.machine.schema import check_known
from itda_lightning.machine.signed_tensors import header_bytes

HEADER = "itda_lightning.checkpoint"
# What a state raises that has not the parts of a fit.
NOT_A_STATE = (LookupError, TypeError, ValueError, AttributeError, RuntimeError)
REMEDY = "take an earlier one of the same run"
# Types of what Lightning and a fit restore.
KNOWN = {
    "epoch": int,
    "global_step": int,
    "state_dict": dict[str, Any],
    "loops": dict[str, Any],
    "callbacks": dict[str, Any],
    "optimizer_states": list[Any],
    "lr_schedulers": list[Any],
    "hyper_parameters": dict[str, Any],
    "itda": dict[str, Any],
}
TENSOR = "__tensor__"


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read the dictionary that Lightning saved, tensors on the CPU; one line of warning if it has no digest.

    Raises:
        InputError: no such file, a damaged one, or one that was not written by ``SafetensorsCheckpointIO``.
    """
    content, signature = checked_checkpoint(Path(path))
    if signature == "none":
        warn_unsigned(path)
    return content


def checked_checkpoint(path: Path) -> tuple[dict[str, Any], Signature]:
    """Read a checkpoint like ``read_checkpoint``, and tell whether it has a digest."""
    try:
        first = header_bytes(path)
        with safe_open(str(path), framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER)
            if header is None:
                raise InputError(
                    f"{path} is not a checkpoint of this package: give one of a run's checkpoints/ directory"
                )
            content = json.loads(
                header, object_hook=lambda item: file.get_tensor(item[TENSOR]) if set(item) == {TENSOR} else item
            )
        if not isinstance(content, dict):
            raise ValueError("its header holds no JSON object")
        content.pop(DIGEST, None)
        signature = check_in_place(path, first)
        check_known(content, KNOWN, f"the checkpoint {path} is damaged: ", REMEDY)
        return content, signature
    except DamagedError as error:
        raise InputError(f"the checkpoint {path} is damaged ({error}): {REMEDY}") from error
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"there is no checkpoint {path}: give the path of a file in a run's checkpoints/") from error
    except (OSError, SafetensorError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"the checkpoint {path} is truncated or foreign ({reason(error)}): {REMEDY}") from error


@contextmanager
def state_of_a_fit(name: str) -> Iterator[None]:
    """Raise InputError for a checkpoint, called ``name``, whose state turns out not to be that of a fit."""
    try:
        yield
    except InputError:
        raise
    except NOT_A_STATE as error:
        raise InputError(
            f"{name} does not hold the state of a fit ({type(error).__name__}: {reason(error)}): {REMEDY}"
        ) from error


class SafetensorsCheckpointIO(CheckpointIO):
    """Write and read Lightning's checkpoints as safetensors files."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint in one step. Raises TypeError for what is neither JSON nor a tensor."""
        tensors: dict[str, torch.Tensor] = {}
        if "callbacks" in checkpoint:  # Lightning's say where the checkpoints are
            checkpoint = {**checkpoint, "callbacks": without_home(checkpoint["callbacks"])}
        header = json.dumps({**_extract(checkpoint, tensors, ""), DIGEST: BLANK})

        def write(temporary: Path) -> None:
            save_file(tensors, temporary, {HEADER: header})
            sign_in_place(temporary, header_bytes(temporary))

        write_file(Path(path), write)

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint; raises like ``read_checkpoint``."""
        return read_checkpoint(path)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint file, if it is there."""
        Path(path).unlink(missing_ok=True)


def _extract(value: Any, tensors: dict[str, torch.Tensor], name: str) -> Any:
    if isinstance(value, torch.Tensor):
        key = name if name not in tensors else f"{name}#{len(tensors)}"
        tensor = value.detach().cpu().contiguous()
        storages = {known.untyped_storage().data_ptr() for known in tensors.values()}
        # safetensors refuses tensors that share memory, e.g. one tensor under two names.
        tensors[key] = tensor.clone() if tensor.untyped_storage().data_ptr() in storages else tensor
        return {TENSOR: key}
    if isinstance(value, dict):
        if TENSOR in value:
            raise TypeError(f"checkpoint entry {name!r} has the key {TENSOR!r}, which marks a tensor in the file")
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"checkpoint entry {name!r} has keys that are not strings: {sorted(map(str, value))}")
        return {key: _extract(item, tensors, f"{name}/{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_extract(item, tensors, f"{name}/{index}") for index, item in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"checkpoint entry {name!r} is a {type(value).__name__}, which is neither JSON nor a tensor")
