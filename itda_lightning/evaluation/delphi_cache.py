"""Write a dictionary's codes as a cache of latents of delphi (github.com/EleutherAI/delphi), which explains latents.

The format is that of its public source in the form of 2025: ``delphi/latents/cache.py`` writes and
``delphi/latents/loader.py`` reads it. In a directory named like the hook point stand

- ``{first}_{last}.safetensors`` for consecutive ranges of latents, as even as delphi makes them: ``locations``
  (uses, 3) of row, position and latent minus ``first``, uint16 if they fit, else uint32; ``activations`` (uses,) in
  float16, or float32 if one overflows it; ``tokens`` (rows, context) int64, in every file, since any may be the first
  that is read. Uses are sorted by row, position and latent: the loader sorts them by latent, stably, and then takes it
  that the uses of a latent are in the order of the text.
- ``config.json``: delphi's ``CacheConfig`` under the names of its earlier and later versions, and ``model_name``, by
  which the loader finds the tokenizer if it is given none.

delphi takes every directory beside for another hook point, so there is nothing else. Uses are streamed through files of
20 bytes per use, so memory does not grow with the text.
"""

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.facts import without_local_paths
from itda_lightning.errors import InputError
from itda_lightning.evaluation.held_out_codes import POSITION, ROW, uses_of
from itda_lightning.machine.choices import Strength
from itda_lightning.machine.streamed_tensors import Parts, write_parts

CONFIG = "config.json"
USE = np.dtype([("row", "<u4"), ("position", "<u4"), ("latent", "<u4"), ("activation", "<f8")])
USES_AT_ONCE = 2**18
ROWS_AT_ONCE = 2**12
LARGEST_HALF = float(np.finfo(np.float16).max)


class _Split:
    """The uses of the latents from ``first`` to ``last``, kept in a file until their number is known."""

    def __init__(self, directory: Path, first: int, last: int) -> None:
        self.first, self.last = first, last
        self.path = directory / f"{first}_{last}.safetensors"
        self._uses = directory / f"{first}_{last}.uses"
        self._file = self._uses.open("wb")
        self._count, self._highest, self._largest = 0, 0, 0.0

    def add(self, uses: np.ndarray) -> None:
        if len(uses):
            uses.tofile(self._file)
            self._count += len(uses)
            self._highest = max(self._highest, *(int(uses[name].max()) for name in ("row", "position", "latent")))
            self._largest = max(self._largest, float(np.abs(uses["activation"]).max()))

    def write(self, tokens: Int[Tensor, "rows context"]) -> None:
        """Write the safetensors file and remove the other."""
        self._file.close()
        tensors = {
            "locations": Parts("<u2" if self._highest < 2**16 else "<u4", (self._count, 3), self._locations()),
            "activations": Parts(
                "<f2" if self._largest <= LARGEST_HALF else "<f4", (self._count,), self._activations()
            ),
            "tokens": Parts("<i8", tuple(tokens.shape), (part.numpy() for part in tokens.split(ROWS_AT_ONCE))),
        }
        write_parts(self.path, tensors)
        self._uses.unlink()

    def _parts(self) -> Iterator[np.ndarray]:
        with self._uses.open("rb") as file:
            while len(part := np.fromfile(file, USE, USES_AT_ONCE)):
                yield part

    def _locations(self) -> Iterator[np.ndarray]:
        for part in self._parts():
            yield np.stack([part["row"], part["position"], part["latent"]], axis=1)

    def _activations(self) -> Iterator[np.ndarray]:
        for part in self._parts():
            yield part["activation"]


def write_latent_cache(
    directory: Path,
    dictionary: Dictionary,
    batches: Iterable[tuple[Float[Tensor, "_ d"], Int[Tensor, "_ 6"]]],
    tokens: Int[Tensor, "rows context"],
    *,
    splits: int = 5,
    strength: Strength = "coefficient",
    signed: bool = True,
) -> int:
    """Encode activations with their sources and write their uses of latents; return how many there are.

    Args:
        directory: an empty directory, named like the hook point.
        batches: activations with the table of their sources, in the order of rows and positions.
        tokens: what the model read.
        splits: number of ranges of latents, each a file.
        strength: what activations are: coefficients, or the cosines of the k atoms that are detected most.
        signed: False for two latents per atom: activations are the positive parts of coefficients, then the sizes of
            their negative parts.

    Raises:
        InputError: fewer latents than ranges.
    """
    n = dictionary.n_atoms if signed else 2 * dictionary.n_atoms
    if not 1 <= splits <= n:
        raise InputError(f"{n} latents do not fill {splits} files: set splits from 1 to {max(n, 1)}")
    bounds = torch.linspace(0, n, splits + 1).long().tolist()  # as delphi divides them
    parts = [_Split(directory, first, after - 1) for first, after in itertools.pairwise(bounds)]
    total = 0
    for x, table in batches:
        used = uses_of(dictionary, x, strength)
        uses = np.zeros(len(used.token), USE)
        source, latent = table.cpu()[used.token], used.latent
        if not signed:
            latent = latent + dictionary.n_atoms * (used.activation < 0)
        uses["row"], uses["position"], uses["latent"] = source[:, ROW], source[:, POSITION], latent
        uses["activation"] = used.activation if signed else used.activation.abs()
        uses.sort(order=("row", "position", "latent"), kind="stable")
        for part in parts:
            own = uses[(uses["latent"] >= part.first) & (uses["latent"] <= part.last)]
            own["latent"] -= part.first
            part.add(own)
        total += len(uses)
    for part in parts:
        part.write(tokens)
    return total


def config_of(data: ActivationsDataModule, tokens: Int[Tensor, "rows context"], splits: int) -> dict[str, Any]:
    """Return delphi's settings of the cache: both names of those that it has renamed, and no local paths."""
    settings = data.hparams
    facts = {
        "dataset_repo": settings["dataset"],
        "dataset_split": settings["dataset_split"],
        "dataset_name": settings["dataset_config"] or "",
        "dataset_column": settings["text_column"],
        "dataset_row": settings["text_column"],
        "batch_size": settings["model_batch_size"],
        "cache_ctx_len": tokens.shape[1],
        "ctx_len": tokens.shape[1],
        "n_tokens": tokens.numel(),
        "n_splits": splits,
        "model_name": data.model_name.name,
    }
    shared: dict[str, Any] = without_local_paths(facts)
    return shared


def write_config(directory: Path, config: dict[str, Any]) -> None:
    """Write ``config.json`` beside the files of latents."""
    (directory / CONFIG).write_text(json.dumps(config, indent=4), encoding="utf-8")
