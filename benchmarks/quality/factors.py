"""The factors of the study: each cell is the base with one thing changed. Builds a cell's dictionary and encodes with
it."""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from itda_lightning.growth import (
    GROWTH_POLICIES,
    GrowthRule,
    RefinementRule,
    RefinementState,
    calibrate_threshold,
    descent,
    refinement_step,
)
from itda_lightning.pursuit import PreparedAtoms, PursuitName, SparseCode, combine, judging, pursue

SAMPLE = 8192  # activations that a threshold is calibrated on
STEP = 1024  # activations in a step of growth
ROUNDS = 8
Order = Literal["rows", "shuffled", "largest first", "smallest first"]
First = Literal["nothing", "principal components", "random activations"]
Growth = Literal["sequential", "frozen_batch", "worst_first", "random", "in proportion to error", "pruned"]


@dataclass(frozen=True)
class Cell:
    """The settings that a dictionary is built and encoded with; the defaults are the base of the study.

    Attributes:
        n, k: atoms and sparsity.
        center: what is subtracted.
        standardize: divide every coordinate by its standard deviation, for growth and encoding; errors are of what it
            was.
        pursuit, nonnegative: the codes of growth and evaluation.
        by_error: codes of varying length with the same mean L0 on the held-out activations, which end at an error
            threshold.
        exponent: ``energy_exponent`` of the rule.
        early: the calibrated threshold is multiplied by this, so that the dictionary is full early.
        growth: which activations become atoms. "in proportion to error": rounds of draws, as k-means++ seeds its
            centres; "pruned": the quarter of the atoms that is used least is taken away, and grown anew in a second
            pass.
        order: of the activations.
        first: atoms that are there from the beginning.
        anchor: of refinement (4 passes of batches of 1,024); None for none.
        position_0: the data hold position 0 and special tokens too.
    """

    n: int = 4096
    k: int = 32
    center: Literal["mean", "none", "geometric median"] = "mean"
    standardize: bool = False
    pursuit: PursuitName = "omp"
    nonnegative: bool = False
    by_error: bool = False
    exponent: float = 0.85
    early: float = 1.0
    growth: Growth = "sequential"
    order: Order = "rows"
    first: First = "nothing"
    anchor: float | None = None
    position_0: bool = False


class Built(NamedTuple):
    """A dictionary with atoms in the space of ``(x - bias) / scale``, and the facts of its growth."""

    bias: Float[Tensor, " d"]
    scale: Float[Tensor, " d"]
    prepared: PreparedAtoms
    error_threshold: float | None
    seen: int
    threshold: float | None


BASE = Cell()
FACTORS: dict[str, Cell] = {
    "base": BASE,
    "centre: none": replace(BASE, center="none"),
    "centre: geometric median": replace(BASE, center="geometric median"),
    "scale: standardised": replace(BASE, standardize=True),
    "encoder: MP": replace(BASE, pursuit="mp"),
    "encoder: MP, non-negative": replace(BASE, pursuit="mp", nonnegative=True),
    "encoder: OMP, non-negative": replace(BASE, nonnegative=True),
    "encoder: OMP, k by error": replace(BASE, by_error=True),
    "encoder: generalised OMP": replace(BASE, pursuit="gomp"),
    "encoder: generalised OMP, non-negative": replace(BASE, pursuit="gomp", nonnegative=True),
    "rule: own energy (published)": replace(BASE, exponent=1.0),
    "rule: exponent .7": replace(BASE, exponent=0.7),
    "rule: squared error": replace(BASE, exponent=0.0),
    "rule: own energy, threshold too low by half": replace(BASE, exponent=1.0, early=0.5),
    "growth: frozen batch": replace(BASE, growth="frozen_batch"),
    "growth: worst first": replace(BASE, growth="worst_first"),
    "growth: random (control)": replace(BASE, growth="random"),
    "growth: in proportion to error": replace(BASE, growth="in proportion to error"),
    "growth: pruned and regrown": replace(BASE, growth="pruned"),
    "order: shuffled activations": replace(BASE, order="shuffled"),
    "order: largest first": replace(BASE, order="largest first"),
    "order: smallest first": replace(BASE, order="smallest first"),
    "first atoms: 32 principal components": replace(BASE, first="principal components"),
    "first atoms: an eighth random activations": replace(BASE, first="random activations"),
    "data: with position 0": replace(BASE, position_0=True),
    "refined, anchor .9": replace(BASE, anchor=0.9),
    "refined, anchor .8": replace(BASE, anchor=0.8),
    "refined, anchor .8, generalised OMP, non-negative": replace(BASE, anchor=0.8, pursuit="gomp", nonnegative=True),
    "as published: MP, not centred, own energy": Cell(center="none", pursuit="mp", exponent=1.0),
    **{
        f"n {n:,}, k {k}{', random' if growth == 'random' else ''}": Cell(n=n, k=k, growth=growth)
        for n in (1024, 4096, 16_384)
        for k in (16, 32, 64)
        for growth in ("sequential", "random")
        if (n, k) != (BASE.n, BASE.k)
    },
}


def build(
    cell: Cell,
    x: Float[Tensor, "m d"],
    seed: int,
    thresholds: dict[tuple[GrowthRule, int, int | None], float] | None = None,
    threshold: float | None = None,
) -> Built:
    """Build the dictionary of a cell from activations.

    Args:
        cell: what to build.
        x: activations.
        seed: of random draws.
        thresholds: calibrated ones of cells before this one, from the same activations; those found here are added.
        threshold: that of the same cell on other activations of the layer; calibrated where it is None.
    """
    thresholds = {} if thresholds is None else thresholds
    generator = torch.Generator().manual_seed(seed)
    bias = centre_of(x, cell.center)
    scale = (x - bias).std(0) if cell.standardize else torch.ones(x.shape[1])
    x = (x - bias) / scale
    sample = x[torch.randperm(len(x), generator=generator)[:SAMPLE]]
    x = x[order_of(x, cell.order, generator)]
    prepared = PreparedAtoms(torch.zeros(cell.n, x.shape[1]), 0)
    prepared.build_gram()
    if cell.first == "principal components":
        prepared.place(0, torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh[: cell.k].contiguous())
    elif cell.first == "random activations":
        prepared.place(0, normalize(x[torch.randperm(len(x), generator=generator)[: cell.n // 8]], dim=1))
    typical = float(x.square().sum(1).median())
    rule = GrowthRule(cell.k, judging(cell.pursuit), cell.nonnegative, 0.5, cell.exponent, typical)
    seen = len(x)
    if cell.growth == "random":
        prepared.place(0, normalize(x[torch.randperm(len(x), generator=generator)[: cell.n]], dim=1))
        seen = cell.n
    elif cell.growth == "in proportion to error":
        draw_by_error(x, prepared, rule, generator)
    else:
        # Rules of other centres and scales differ, since they hold the typical energy.
        batch_size = STEP if cell.growth == "frozen_batch" else None
        key = rule, cell.n - prepared.n, batch_size
        if threshold is not None:
            thresholds[key] = threshold
        elif key not in thresholds:
            thresholds[key], _ = calibrate_threshold(sample, rule, cell.n - prepared.n, len(x), batch_size=batch_size)
        threshold = thresholds[key]
        rule = rule._replace(threshold=threshold * cell.early)
        policy = "sequential" if cell.growth == "pruned" else cell.growth
        seen = grow(x, prepared, rule, policy)
        if cell.growth == "pruned":
            prune(x, prepared, rule)
            seen += grow(x, prepared, rule, policy)
    if cell.anchor is not None:
        atoms = refined(normalize(x, dim=1), prepared.atoms.clone(), cell, seed)
        prepared = PreparedAtoms(atoms, len(atoms))
        prepared.build_gram()
    return Built(bias, scale, prepared, None, seen, threshold)


def encode(cell: Cell, built: Built, x: Float[Tensor, "m d"]) -> tuple[SparseCode, Float[Tensor, "m d"]]:
    """Return codes and reconstructions."""
    k = 2 * cell.k if cell.by_error else cell.k
    scaled = (x - built.bias) / built.scale
    code = pursue(cell.pursuit, scaled, built.prepared, k, cell.nonnegative, built.error_threshold).distinct()
    return code, combine(code.support, code.coefficients, built.prepared.atoms) * built.scale + built.bias


def centre_of(x: Tensor, center: str) -> Float[Tensor, " d"]:
    """Return the mean, zeros, or the geometric median by Weiszfeld's iteration."""
    if center == "none":
        return torch.zeros(x.shape[1])
    median = x.double().mean(0)
    for _ in range(50 if center == "geometric median" else 0):
        weights = 1 / (x - median).norm(dim=1).clamp(min=1e-6)
        median = (weights[:, None] * x).sum(0) / weights.sum()
    return median.float()


def order_of(x: Tensor, order: Order, generator: torch.Generator) -> Tensor:
    if order == "shuffled":
        return torch.randperm(len(x), generator=generator)
    if order == "rows":
        return torch.arange(len(x))
    return x.square().sum(1).argsort(descending=order == "largest first", stable=True)


def grow(x: Tensor, prepared: PreparedAtoms, rule: GrowthRule, policy: str) -> int:
    """Grow in one pass until the dictionary is full and return the number of activations read."""
    for start in range(0, len(x), STEP):
        if prepared.n >= prepared.capacity:
            return start
        prepared.place(prepared.n, GROWTH_POLICIES[policy](x[start : start + STEP], prepared, rule).atoms)
    return len(x)


def draw_by_error(x: Tensor, prepared: PreparedAtoms, rule: GrowthRule, generator: torch.Generator) -> None:
    """Fill the dictionary in rounds, drawing activations in proportion to their unexplained part."""
    for number in range(ROUNDS):
        count = prepared.capacity * (number + 1) // ROUNDS - prepared.n
        weight = x.square().sum(1) / rule.reference(x)
        if prepared.n:
            weight = pursue(rule.pursuit, x, prepared, rule.k, rule.nonnegative).residual_energy / rule.reference(x)
        drawn = torch.multinomial(weight.double(), count, generator=generator)
        prepared.place(prepared.n, normalize(x[drawn], dim=1))


def prune(x: Tensor, prepared: PreparedAtoms, rule: GrowthRule) -> None:
    """Remove the quarter of the atoms that the codes of ``x`` use least."""
    support = pursue(rule.pursuit, x, prepared, rule.k, rule.nonnegative).support
    used = torch.bincount(support[support >= 0], minlength=prepared.n)
    kept = used.argsort(descending=True, stable=True)[: prepared.n - prepared.n // 4].sort().values
    prepared.place(0, prepared.atoms[kept].clone())


def refined(unit: Tensor, sources: Tensor, cell: Cell, seed: int, passes: int = 4, batch: int = 1024) -> Tensor:
    assert cell.anchor is not None
    steps = passes * (len(unit) // batch)
    rule = RefinementRule(cell.k, cell.pursuit, cell.nonnegative, cell.anchor, 0.1, steps)
    state = RefinementState.start(sources)
    for number in range(passes):
        order = torch.randperm(len(unit), generator=torch.Generator().manual_seed(seed * passes + number))
        for part in order.split(batch)[: len(unit) // batch]:
            state = refinement_step(state, descent(unit[part], state.atoms, rule), sources, rule)
    return state.atoms


def at_mean_l0(cell: Cell, built: Built, x: Float[Tensor, "m d"]) -> Built:
    """Set the error threshold at which codes of up to 2 k atoms have k on average.

    Args:
        x: activations on which it is measured. Not those of training: many of them are atoms, whose codes have one.
    """
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        built = built._replace(error_threshold=middle)
        longer = float(encode(cell, built, x)[0].l0().double().mean()) > cell.k
        low, high = (middle, high) if longer else (low, middle)
    return built._replace(error_threshold=high)
