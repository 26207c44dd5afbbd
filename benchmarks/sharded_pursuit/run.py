"""Measure pursuits over atoms that are split over processes: bytes sent and time, against ranks, atoms and k.

    OMP_NUM_THREADS=1 python -m benchmarks.sharded_pursuit.run

Groups of gloo processes on this machine. Writes results/sharded_pursuit.json and sharded_pursuit.md.
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from torch import distributed
from torch.multiprocessing import get_context

from benchmarks.results import Study, describe, environment, table, write_results
from itda_lightning.machine.processes import n_ranks, rank, shares
from itda_lightning.pursuit import ShardedAtoms

RESULTS = Path(__file__).parent / "results"
SHAPES = [(1024, 16), (4096, 8), (4096, 16)]  # atoms, k


def main(d: int = 512, batch: int = 256, ranks: tuple[int, ...] = (1, 2, 4), seed: int = 0) -> None:
    """Measure all shapes, pursuits and forms in groups of each size."""
    rows: list[dict[str, Any]] = []
    for size in ranks:
        with tempfile.TemporaryDirectory() as directory, get_context("fork").Pool(size) as pool:
            arguments = [(index, size, f"{directory}/store", d, batch, seed) for index in range(size)]
            rows += pool.starmap(measure, arguments, chunksize=1)[0]
    result = {
        **describe(Study("sharded_pursuit", dataset="random directions", seed=seed)),
        "d": d,
        "batch": batch,
        "load_average": os.getloadavg()[1],
        "rows": rows,
    }
    write_results(RESULTS, "sharded_pursuit", result, as_markdown(result))


def measure(index: int, size: int, store: str, d: int, batch: int, seed: int) -> list[dict[str, Any]]:
    """Measure the rows of one group; runs in each of its processes."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=index, world_size=size)
    received = count_received()
    rows = []
    for n, k in SHAPES:
        generator = torch.Generator().manual_seed(seed)
        atoms = torch.nn.functional.normalize(torch.randn(n, d, generator=generator), dim=1)
        x = torch.randn(batch, d, generator=generator)
        shard = ShardedAtoms(atoms[shares(n)[rank()]])
        columns = shard.columns
        for form in ("gram", "residual"):
            shard.columns = columns if form == "gram" else None
            for pursuit in ("mp", "omp"):
                shard.pursue(pursuit, x[:8], k)
                received[0] = 0
                distributed.barrier()
                start = time.perf_counter()
                shard.pursue(pursuit, x, k)
                seconds = time.perf_counter() - start
                rows.append(
                    {
                        "ranks": size,
                        "atoms": n,
                        "k": k,
                        "form": form,
                        "pursuit": pursuit,
                        "received a rank, step and activation (B)": received[0] / k / batch,
                        "formula (B)": formula(pursuit, form, d, k),
                        "us an activation": seconds * 1e6 / batch,
                    }
                )
    distributed.barrier()
    distributed.destroy_process_group()
    return rows


def formula(pursuit: str, form: str, d: int, k: int) -> float:
    """Return the bytes received per rank, step and activation in float32 if all ranks win equally often."""
    others, share = n_ranks() - 1, 1 / n_ranks()
    inner = 4 * (k - 1) / 2 if pursuit == "omp" and form == "gram" else 0
    vector = 4 * d if form == "residual" else 0
    return others * (12 + share * (inner + vector))


def count_received() -> list[int]:
    """Count from now on the bytes that collectives bring to this process."""
    total, all_gather = [0], distributed.all_gather

    def counted(received: list[torch.Tensor], sent: torch.Tensor, **options: Any) -> Any:
        total[0] += (len(received) - 1) * sent.nbytes
        return all_gather(received, sent, **options)

    vars(distributed)["all_gather"] = counted
    return total


def as_markdown(result: dict[str, Any]) -> str:

    def cell(value: Any) -> str:
        return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)

    lines = [
        f"Signed pursuits by `ShardedAtoms`, d = {result['d']}, {result['batch']} activations, float32, groups of gloo "
        f"processes of one thread each on one machine, load average {result['load_average']:.1f} (above the number of "
        f"cores, times say little). {environment(result)}",
        "",
        "With R ranks, of which each wins equally often, a rank receives at a step and for each activation, in single "
        "precision:",
        "",
        "| | matching pursuit | orthogonal, with t atoms in the support |",
        "|---|---|---|",
        "| Gram columns kept | 12 (R - 1) | 12 (R - 1) + 4 t (R - 1) / R |",
        "| chosen atoms sent | (R - 1) (12 + 4 d / R) | the same |",
        "",
        "It does not depend on the number of atoms. What rank 0 received is more, because the shares of all ranks "
        "travel padded to the largest.",
        "",
        *table(list(result["rows"][0]), ([cell(value) for value in row.values()] for row in result["rows"])),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
