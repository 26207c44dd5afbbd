"""SAEs of two layers on 32 T activations from the caches of ``benchmarks/comparison``, which spares another harvest.

    python -m benchmarks.joint.longest

``layer4.yaml`` and ``layer14.yaml`` there read 655,360 tokens of the same text, other rows than ``run.py``; those of
documents that are held out here are left out. The rows of 32 T are added to results/two_layers.json.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import auto_cli
from numpy.lib.format import open_memmap

import itda_lightning as il
from benchmarks.bundled import DATASET, MODEL
from benchmarks.joint.entries import Entries
from benchmarks.joint.losses import Losses
from benchmarks.joint.measures import HeldOut
from benchmarks.joint.run import LOSS_ROWS, RESULTS, run
from benchmarks.joint.settings import BUDGETS, CALIBRATION, settings
from benchmarks.results import commit
from itda_lightning.activations.arrays import ArrayActivations
from itda_lightning.activations.cache import SHARD_ROWS
from itda_lightning.activations.text.split import is_held_out
from itda_lightning.machine.made_once import made_once

LONGEST = "32 T"
CACHED: dict[str, Any] = {"training_tokens": 655_360, "validation_tokens": 32_768, "holdout_fraction": 0.05}
CACHE = "~/.cache/itda_lightning/activations"


class LongestEntries(Entries):
    """Entries whose SAEs of 32 T are of other rows."""

    def data(self, names: Sequence[str], budget: str) -> ArrayActivations:
        """Return the activations of one or several sites; those of the longest budget are of the caches."""
        if budget != LONGEST:
            return super().data(names, budget)
        n = BUDGETS[budget] + CALIBRATION
        held_out = self.setting.of.aligned.data["base"].hparams["holdout_fraction"]
        arrays = {}
        for name in names:
            place = self.setting.of.directory / "longest" / name
            place = made_once(place, partial(self._write, name=name, n=n, held_out=held_out))
            arrays[name] = np.load(place / "x.npy", mmap_mode="r+")
        return ArrayActivations(arrays if len(names) > 1 else arrays[names[0]], holdout_fraction=CALIBRATION / n)

    def _write(self, target: Path, name: str, n: int, held_out: float) -> None:
        """Write the first n cached activations of documents that are not held out."""
        hook = self.setting.sites[name][1]
        data = il.ActivationsDataModule(MODEL, hook, DATASET, cache_dir=CACHE, **CACHED)
        data.prepare_data()
        rows, cache = data.rows("train"), data.cache("train")
        assert cache is not None
        out = {document for document, text in rows.texts.items() if is_held_out(text, held_out)}
        kept = rows.kept & ~torch.isin(rows.document, torch.tensor(sorted(out)))
        x, end = open_memmap(target / "x.npy", "w+", np.float32, (n, cache.widths[hook])), 0
        for start in range(0, len(rows), SHARD_ROWS):
            part = cache.read(start, min(start + SHARD_ROWS, len(rows))).activations[hook]
            read = part[kept[start : start + len(part), rows.first_position :]][: n - end]
            x[end : end + len(read)] = read.numpy()
            end += len(read)
        assert end == n, f"only {end:,} activations of documents that are not held out"
        x.flush()


def main(directory: Path = Path("runs/joint"), results: Path = RESULTS) -> None:
    """Run what is not there yet."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    setting = settings(directory, "")["two_layers"]
    held_out = HeldOut(setting, Losses(setting.of, LOSS_ROWS))
    run("two_layers", LongestEntries(setting), LONGEST, held_out, directory, results, commit())


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
