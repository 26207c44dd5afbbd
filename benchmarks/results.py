"""Write the results of a study: JSON that says what was measured, by which commit and where, and a table in Markdown.

Every script describes its study with ``Study``, adds its own figures to ``describe(study)`` and hands both forms to
``write_results``.
"""

import json
import math
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from itda_lightning.machine.atomic_files import write_file, write_text
from itda_lightning.machine.versions import versions_and_hardware

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Study:
    """The subject of a study; a field is None if it does not apply.

    Attributes:
        study: name of the study, its folder in ``benchmarks/``.
        model: name or directory of the language model.
        revision: fingerprint or commit of the model's weights.
        hook_name: hook point, or hook points, of the activations.
        dataset: name of the text, or how activations were drawn.
        tokens: number of training tokens or activations.
        seed: of whatever is drawn.
    """

    study: str
    model: str | None = None
    revision: str | None = None
    hook_name: str | Sequence[str] | None = None
    dataset: str | None = None
    tokens: int | None = None
    seed: int | None = None


def describe(study: Study) -> dict[str, Any]:
    """Return the fields of a study with commit, threads, versions and hardware: the start of its results."""
    return {
        **asdict(study),
        "commit": commit(),
        "threads": torch.get_num_threads(),
        "versions": versions_and_hardware(),
    }


def commit() -> str:
    """Return the checked-out commit; "" outside a clone."""
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def environment(results: dict[str, Any]) -> str:
    """Return one sentence on hardware, versions and commit for the head of a table."""
    versions = results["versions"]
    gpus = "".join(f", {gpu}" for gpu in versions["gpus"])
    threads = "" if results["threads"] is None else f", {results['threads']} thread(s)"  # old results do not say
    return (
        f"{versions['cpus']} CPU cores, {versions['memory_gb']} GB{gpus}{threads}, "
        f"torch {versions['torch']}, sae-lens {versions['sae-lens']}, commit {results['commit'][:12]}."
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


def write_results(directory: Path, name: str, results: dict[str, Any], markdown: str, figure: Any = None) -> None:
    """Write ``name.json``, ``name.md`` and, given a matplotlib figure, ``name.svg``, each in one step; print the table.

    Numbers that are not finite become null, since JSON has no others.
    """
    write_text(directory / f"{name}.json", json.dumps(_finite(results), indent=1, ensure_ascii=False) + "\n")
    write_text(directory / f"{name}.md", markdown)
    if figure is not None:
        write_file(directory / f"{name}.svg", lambda path: figure.savefig(path, format="svg"))
    print(markdown, flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
