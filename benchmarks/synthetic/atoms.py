"""Dictionaries of a world's activations: how their atoms are made, from random activations to refined ones."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.quality.factors import Cell, build
from benchmarks.synthetic.growths import Choice, grow_in_windows
from benchmarks.synthetic.worlds import World
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.growth import (
    RefinementRule,
    RefinementState,
    descent,
    project_on_cones,
    refinement_step,
    unmix,
    unmixing_steps,
)
from itda_lightning.machine.made_once import hash_of, made_once
from itda_lightning.pursuit import PursuitName

Start = Literal["random", "grown", "k-means", "true features", "oddest", "typical", "oddest, pruned", "typical, pruned"]
CHOICES: tuple[Choice, ...] = get_args(Choice)


# The least share of energy that an atom must explain, in units of what a random direction does: 1 / d. It is .02 in the
# small world, as on the worlds of earlier studies, and .005 in the 16k world.
PRUNED = 3.84


@dataclass(frozen=True)
class Atoms:
    """Describe how to make the atoms of a dictionary.

    Attributes:
        start: what they are at first. True features: those that fire most, with the bias of the world. Oddest and
            typical: grown in windows, pruned: by the residuals of pruned codes.
        pursuit, nonnegative: the codes that they are grown, refined and read for.
        k: the sparsity, None for that of the world's size.
        center: subtract the mean.
        anchor: least cosine with the start in refinement, None for no bound; 1 for no refinement.
        passes, batch_size: of refinement, whose rate is .1.
        unmix: largest cosine that an atom keeps with atoms used more often; None for not at all.
    """

    start: Start = "grown"
    pursuit: PursuitName = "gomp"
    nonnegative: bool = True
    k: int | None = None
    center: bool = True
    anchor: float | None = 1.0
    passes: int = 8
    batch_size: int = 512
    unmix: float | None = None


def dictionary_of(world: World, atoms: Atoms, samples: int, seed: int) -> Dictionary:
    """Make a dictionary from the first training samples, or read it if it was made before.

    Its metadata holds the ``seconds`` that it took, without the making of samples.
    """
    identity = hash_of(asdict(atoms) | {"samples": samples, "seed": seed})

    def make(directory: Path) -> None:
        x = world.training(samples)
        if atoms.anchor == 1:
            begun = time.perf_counter()
            dictionary = _start(world, atoms, x, seed)
        else:
            dictionary = dictionary_of(world, _unrefined(atoms), samples, seed)
            begun = time.perf_counter() - dictionary.metadata["seconds"]
            dictionary.refine(_refined(dictionary, dictionary.centre(x), atoms, seed))
        dictionary.metadata["seconds"] = time.perf_counter() - begun
        dictionary.save(directory / "dictionary")

    place = made_once(world.directory / "dictionaries" / identity, make)
    return Dictionary.load(place / "dictionary")


def _unrefined(atoms: Atoms) -> Atoms:
    """Return the description of the same atoms before refinement, which others may share."""
    return Atoms(atoms.start, atoms.pursuit, atoms.nonnegative, atoms.k, atoms.center)


def _start(world: World, atoms: Atoms, x: Float[Tensor, "m d"], seed: int) -> Dictionary:
    n, k = world.size.atoms, atoms.k or world.size.k
    bias = x.mean(0) if atoms.center else torch.zeros_like(x[0])
    if atoms.start == "true features":
        rows = world.features[world.firing_rates(len(x)).argsort(descending=True, stable=True)[:n]]
        bias = world.model.feature_dict.bias.detach()
    elif atoms.start == "k-means":
        rows = _centroids(x - bias, n, seed)
    elif atoms.start.startswith(CHOICES):
        choice: Choice = "oddest" if atoms.start.startswith("oddest") else "typical"
        gain = PRUNED / world.size.width if atoms.start.endswith("pruned") else 0.0
        chosen = grow_in_windows(x - bias, n, k, atoms.pursuit, atoms.nonnegative, choice, gain)
        rows = normalize(x[chosen] - bias, dim=1)
    else:
        growth: Literal["random", "sequential"] = "random" if atoms.start == "random" else "sequential"
        center: Literal["mean", "none"] = "mean" if atoms.center else "none"
        cell = Cell(n, k, center, pursuit=atoms.pursuit, nonnegative=atoms.nonnegative, growth=growth)
        built = build(cell, x, seed)
        rows, bias = built.prepared.atoms, built.bias
    return Dictionary(rows, bias, k=k, pursuit=atoms.pursuit, nonnegative=atoms.nonnegative)


def _refined(dictionary: Dictionary, x: Float[Tensor, "m d"], atoms: Atoms, seed: int) -> Float[Tensor, "n d"]:
    """Refine by the package's steps, each pass in an order of its own, without what a fit keeps for resuming."""
    per_pass, sources = max(1, len(x) // atoms.batch_size), dictionary.atoms
    rule = RefinementRule(dictionary.k, atoms.pursuit, atoms.nonnegative, atoms.anchor, 0.1, atoms.passes * per_pass)
    state = RefinementState.start(sources)
    uses, unmixed_after = torch.zeros(len(sources), dtype=torch.int64), unmixing_steps(rule.steps)
    for number in range(atoms.passes):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed((seed << 16) + number))
        for part in order.split(atoms.batch_size)[:per_pass]:
            sums = descent(x[part], state.atoms, rule)
            state = refinement_step(state, sums, sources, rule)
            uses += sums.uses
            if atoms.unmix is not None and int(state.step) in unmixed_after:
                unmixed, changed = unmix(state.atoms, uses, atoms.unmix)
                inside = project_on_cones(unmixed, sources, atoms.anchor)
                state = state._replace(atoms=torch.where(changed[:, None], inside, state.atoms))
                uses.zero_()
    return state.atoms


def _centroids(x: Float[Tensor, "m d"], n: int, seed: int) -> Float[Tensor, "n d"]:
    """Return the directions of the centroids of mini-batch k-means."""
    from sklearn.cluster import MiniBatchKMeans  # of the extra `benchmarks`

    means = MiniBatchKMeans(n, batch_size=4096, n_init=1, random_state=seed).fit(x.numpy())
    return normalize(torch.from_numpy(means.cluster_centers_).to(x), dim=1)
