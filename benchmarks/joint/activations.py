"""Activations of several models at the same positions of one text, as memory maps that are filled as far as needed.

They are those of ``il.aligned_activations``, made by its parts: it holds all in memory, and gives no held-out text.
"""

import json
import time
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.lib.format import open_memmap
from torch import Tensor

from itda_lightning.across_models.alignment import align, unit_of_alignment
from itda_lightning.across_models.compared_models import SameText
from itda_lightning.activations.harvesting import harvest
from itda_lightning.activations.text.rows import Rows
from itda_lightning.activations.text.split import SPLITS, Split
from itda_lightning.machine.atomic_files import write_json

SLICE = 16_384  # activations after which a harvest can be resumed
BATCH = 16  # rows

Models = dict[str, tuple[str, list[str]]]  # name -> (model, hook points)


class AlignedText:
    """Models and the positions of a text that all of them have: tokens, or characters at which tokens end.

    Args:
        place: directory of the activations; the same for all texts of the same documents and tokens.
        models: the first one's tokens are counted.
        dataset: as of ``ActivationsDataModule``.
        tokens: of the training text and of the held-out text.
        context_size: tokens per row of the first model.
    """

    def __init__(
        self, place: Path, models: Models, dataset: str, tokens: dict[Split, int], context_size: int = 128
    ) -> None:
        self.place = place
        shared: dict[str, Any] = {
            "training_tokens": tokens["train"],
            "validation_tokens": tokens["heldout"],
            "context_size": context_size,
        }
        self.data = {name: SameText(model, hooks, dataset, **shared) for name, (model, hooks) in models.items()}
        first, *others = self.data.values()
        for other in others:
            for split in SPLITS:
                other.read_the_text_of(first, split)
        place.mkdir(parents=True, exist_ok=True)

    @cached_property
    def places(self) -> dict[Split, dict[str, Int[Tensor, "n 2"]]]:
        """Row and position of each aligned token, for each model."""
        found: dict[Split, dict[str, Tensor]] = {}
        for split in SPLITS:
            rows = [one.rows(split) for one in self.data.values()]
            found[split] = dict(zip(self.data, align(rows, unit_of_alignment("auto", rows)).places, strict=True))
        return found

    @property
    def documents(self) -> Int[Tensor, " n"]:
        """The document of each held-out position."""
        name, data = next(iter(self.data.items()))
        row, position = self.places["heldout"][name].T
        return data.rows("heldout").document[row, position]

    def first_rows(self, model: str, n: int) -> Rows:
        """Return the first held-out rows as a model reads them; only aligned tokens are kept."""
        rows = self.data[model].rows("heldout")
        kept = torch.zeros_like(rows.kept)
        kept[tuple(self.places["heldout"][model].T)] = True
        return replace(rows, kept=kept).select(torch.arange(n))

    def arrays(self, model: str, split: Split, n: int | None = None) -> dict[str, np.ndarray]:
        """Return the activations at the first n aligned positions, or at all, by hook point; harvest what is missing.

        Raises:
            ValueError: fewer positions than that.
        """
        rows, places = self.data[model].rows(split), self.places[split][model]
        n = len(places) if n is None else n
        if n > len(places):
            raise ValueError(f"the text has {len(places):,} aligned positions ({split}), not {n:,}: read more tokens")
        number = torch.full(rows.kept.shape, -1)
        number[rows.kept] = torch.arange(rows.n_kept)
        index = number[tuple(places[:n].T)]
        maps = self._harvested(model, split, int(index.max()) + 1)
        # A memory map as it is if all tokens are aligned.
        every = torch.equal(index, torch.arange(n))
        return {hook: x[:n] if every else x[index.numpy()] for hook, x in maps.items()}

    def harvests(self) -> dict[str, dict[str, int | float]]:
        """Return for each model and split how many activations are there and the seconds that they took."""
        states = {f"{name}-{split}": self.place / f"{name}-{split}.json" for name in self.data for split in SPLITS}
        known = {name: json.loads(state.read_text()) for name, state in states.items() if state.exists()}
        return {name: {fact: state[fact] for fact in ("positions", "seconds")} for name, state in known.items()}

    def release_models(self) -> None:
        """Free the memory of the language models."""
        for data in self.data.values():
            data.release_model()

    def _harvested(self, model: str, split: Split, n: int) -> dict[str, np.memmap]:
        """Return the activations of a model's own kept tokens, of which at least the first n are there."""
        data = self.data[model]
        state, total = self.place / f"{model}-{split}.json", data.rows(split).n_kept
        known: dict[str, Any] = {"positions": 0, "seconds": 0}
        known |= json.loads(state.read_text()) if state.exists() else {"widths": data.widths}
        maps = {}
        for hook, width in known["widths"].items():
            file = self.place / f"{model}-{split}-{hook}.npy"
            there = file.exists()
            maps[hook] = open_memmap(file, "r+" if there else "w+", np.float32, None if there else (total, width))
            assert maps[hook].shape == (total, width), f"{file} is of another text"
        while known["positions"] < n:
            start = time.perf_counter()
            stop = min(known["positions"] + SLICE, total)
            self._read(model, split, maps, known["positions"], stop)
            known |= {"positions": stop, "seconds": known["seconds"] + time.perf_counter() - start}
            write_json(state, known)
            print(f"{model}, {split}: {stop:,} activations in {known['seconds']:,.0f} s", flush=True)
        return maps

    def _read(self, model: str, split: Split, maps: dict[str, np.memmap], start: int, stop: int) -> None:
        """Harvest the rows of some kept tokens and write these."""
        data = self.data[model]
        rows = data.rows(split)
        row, position = rows.kept.nonzero()[start:stop].T
        first, last = int(row[0]), int(row[-1])
        index = torch.full((last + 1 - first, rows.context_size), -1)
        index[row - first, position] = torch.arange(start, stop)
        for part in harvest(data.language_model, rows, BATCH, first, last + 1):
            for hook, x in part.activations.items():
                wanted = index[part.first_row - first :][: len(x), rows.first_position :]
                maps[hook][wanted[wanted >= 0].numpy()] = x[wanted >= 0].float().numpy()
        for written in maps.values():
            written.flush()
