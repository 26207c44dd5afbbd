"""Measure where the time of codes by a small dictionary goes.

    python -m benchmarks.pursuit.parts

Centred activations of the bundled model are encoded with others as atoms, as in ``activations.py``, and parts of that
are repeated alone, with the atoms that were picked: rows of the Gram that move the scores, from memory in pages of 4
kB, in huge pages as the Gram has, and from few rows that stay in the cache; and the sums of an orthogonal step. Codes
of every pursuit are also pruned, as a dictionary with a ``least_gain`` prunes them. One thread, processor time,
interleaved, since the machine may be shared. Writes results/parts.json and parts.md.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import auto_cli
from numba import njit
from numpy.typing import NDArray

import itda_lightning as il
from benchmarks.pursuit.coarse_gram import seconds
from benchmarks.pursuit.run import LINEAR, RESULTS
from benchmarks.results import Study, describe, environment, table, write_results
from itda_lightning.activations.shuffled import TrainingRows
from itda_lightning.pursuit import PreparedAtoms, leave_one_out, pursue
from itda_lightning.pursuit.compiled import ScoreRoom, screen
from itda_lightning.pursuit.kernels.screening import GROUP, subtract_row, subtract_rows
from itda_lightning.pursuit.kernels.steps import inner_products, subtract_atoms

SEVERAL = "generalised pursuit, half as many atoms again, non-negative"
MODEL, DATASET, HOOK = "bundled:smollm2-135m", "bundled:sotu", "blocks.14.hook_resid_post"
TINY = np.float32(1e-9)
# Of an activation's energy, that an atom must explain in a pruned code: most atoms stay, or few do.
LEAST_GAIN, LARGE_GAIN = 1e-3, 1e-2
IN_CACHE = 8  # rows of a Gram that stay in the cache


@njit(nogil=True)
def single_rows(scores: NDArray, gram: NDArray, support: NDArray, maxima: NDArray) -> None:
    for i in range(len(support)):
        for s in range(support.shape[1] - 1):
            subtract_row(scores[i], gram[support[i, s]].reshape(-1, GROUP), TINY, maxima)


@njit(nogil=True)
def all_rows(scores: NDArray, gram: NDArray, support: NDArray, weights: NDArray) -> None:
    for i in range(len(support)):
        for s in range(1, support.shape[1]):
            subtract_rows(scores[i].reshape(-1), gram, support[i, :s], weights[:s])


@njit(nogil=True)
def products_with_support(atoms: NDArray, support: NDArray, result: NDArray) -> None:
    for i in range(len(support)):
        for s in range(1, support.shape[1]):
            inner_products(atoms[support[i, s]], atoms, support[i, :s], result[:s])


@njit(nogil=True)
def residuals(x: NDArray, atoms: NDArray, support: NDArray, weights: NDArray) -> None:
    for i in range(len(support)):
        for s in range(1, support.shape[1]):
            subtract_atoms(x[i], atoms, support[i, :s], weights[:s])


def parts(x: torch.Tensor, atoms: torch.Tensor, k: int) -> dict[str, tuple[int, Callable[[], object]]]:
    """Return what is timed, each of ``len(x)`` activations."""
    n, prepared = len(atoms), PreparedAtoms(atoms, len(atoms), half=False)
    prepared.build_gram()
    assert prepared.gram is not None
    huge, small = prepared.gram.numpy(), prepared.gram.clone().numpy()  # torch's own memory has pages of 4 kB
    room = ScoreRoom.empty(len(x), n)
    codes = {pursuit: pursue(pursuit, x, prepared, k) for pursuit in ("mp", "omp")}
    mp, omp = (code.support.numpy() for code in codes.values())
    several = pursue("gomp", x, prepared, k * 3 // 2, nonnegative=True)
    scores, maxima = np.random.default_rng(0).standard_normal((len(x), n // GROUP, GROUP)), np.empty(n // GROUP)
    scores, maxima = scores.astype(np.float32), maxima.astype(np.float32)
    weights, result, rows = np.full(k, TINY), np.empty(k), atoms.numpy()
    changed = x.clone().numpy()
    of_one: dict[str, Callable[[], object]] = {
        LINEAR: lambda: x @ atoms.T,
        "MP": lambda: pursue("mp", x, prepared, k),
        "OMP": lambda: pursue("omp", x, prepared, k),
        SEVERAL: lambda: pursue("gomp", x, prepared, k * 3 // 2, nonnegative=True),
        "pruning MP's codes": lambda: leave_one_out(codes["mp"], x, prepared, LEAST_GAIN, False),
        "pruning OMP's codes": lambda: leave_one_out(codes["omp"], x, prepared, LEAST_GAIN, False),
        "pruning generalised codes": lambda: leave_one_out(several, x, prepared, LEAST_GAIN, True),
        "pruning MP's codes to few atoms": lambda: leave_one_out(codes["mp"], x, prepared, LARGE_GAIN, False),
        "pruning OMP's codes to few atoms": lambda: leave_one_out(codes["omp"], x, prepared, LARGE_GAIN, False),
        "pruning generalised codes to few atoms": lambda: leave_one_out(several, x, prepared, LARGE_GAIN, True),
        "the product of all steps": lambda: screen(x, prepared, room, half=False),
        "MP's rows, 4 kB pages": lambda: single_rows(scores, small, mp, maxima),
        "MP's rows": lambda: single_rows(scores, huge, mp, maxima),
        "MP's rows, in the cache": lambda: single_rows(scores, huge, mp % IN_CACHE, maxima),
        "OMP's rows, 4 kB pages": lambda: all_rows(scores, small, omp, weights),
        "OMP's rows": lambda: all_rows(scores, huge, omp, weights),
        "OMP's rows, in the cache": lambda: all_rows(scores, huge, omp % IN_CACHE, weights),
        "OMP's products with the support": lambda: products_with_support(rows, omp, result),
        "OMP's residuals": lambda: residuals(changed, rows, omp, weights),
    }
    return {name: (len(x), do) for name, do in of_one.items()}


@torch.no_grad()
def main(
    n: int = 4096,
    k: int = 32,
    cache_dir: Path = Path("~/.cache/itda_lightning/activations"),
    activations: int = 512,
    repetitions: int = 11,
) -> None:
    """Run the benchmark.

    Args:
        n, k: of the dictionary and codes.
        cache_dir: of activations.
        activations: that are encoded at a time.
        repetitions: of each part.
    """
    torch.set_num_threads(1)
    data = il.ActivationsDataModule(MODEL, [HOOK], DATASET, training_tokens=16_384 + 2048, cache_dir=str(cache_dir))
    data.prepare_data()
    training = TrainingRows(data, HOOK)
    x = training.read(0, training.n_rows)
    x = x - x.mean(0)
    atoms = torch.nn.functional.normalize(x[:n], dim=1)
    us = seconds(parts(x[-activations:].clone(), atoms, k), repetitions)
    tokens, revision = data.hparams["training_tokens"], data.model_name.fingerprint()
    study = Study("pursuit/parts", MODEL, revision, HOOK, DATASET, tokens=tokens, seed=data.hparams["seed"])
    shape = {"d": x.shape[1], "n": n, "k": k}
    rows = [{"name": name, "us": time, "linear encodes": time / us[LINEAR]} for name, time in us.items()]
    result = {**describe(study), **shape, "rows": rows}
    write_results(RESULTS, "parts", result, as_markdown(result))


def as_markdown(result: dict[str, Any]) -> str:
    rows = [[row["name"], f"{row['us']:,.1f}", f"{row['linear encodes']:.2f}"] for row in result["rows"]]
    lines = [
        f"Processor time of one thread per activation of {HOOK}, d {result['d']}, {result['n']:,} atoms, k "
        f"{result['k']}, screened in float32; medians, on a machine that others used. {environment(result)}",
        "",
        *table(["what", "µs", "in linear encodes"], rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
