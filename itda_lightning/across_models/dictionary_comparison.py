"""Dictionaries of several models compared by their sources: layer by layer, as whole models, and with other orders."""

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.across_models.aligned_activations import AlignedActivations
from itda_lightning.across_models.alignment import Unit, common_sources
from itda_lightning.across_models.compared_models import ComparedModel
from itda_lightning.across_models.regrowth import regrown, reordered_batches
from itda_lightning.across_models.similarity_settings import SimilaritySettings
from itda_lightning.across_models.site_matrix import SiteMatrix
from itda_lightning.across_models.source_sets import SourceSet, Universe, equal_atoms
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.results.model_similarity import Reordered, WholeModels


class Fit(NamedTuple):
    """A fit at one hook point: the dictionary itself (order 0), or one on the tokens in another order (1, 2, ...)."""

    model: str
    hook_name: str
    order: int = 0

    def __str__(self) -> str:
        return f"the dictionary of {self.model} at {self.hook_name}" + (
            ", grown in another order," if self.order else ""
        )


class DictionaryComparison(NamedTuple):
    """Results of comparing dictionaries by their sources.

    Attributes:
        atoms: number of atoms of each dictionary that count.
        universe: number of sources that could have become atoms.
        chance: Jaccard index of two random sets of ``atoms`` sources.
        matrices: measure -> values of all pairs of sites.
        whole_models: the unions of all pairs of models.
        reordered: every dictionary and every model with its fits in other orders.
    """

    atoms: int
    universe: int
    chance: float
    matrices: dict[str, SiteMatrix]
    whole_models: tuple[WholeModels, ...]
    reordered: tuple[Reordered, ...]


NO_DICTIONARIES = DictionaryComparison(0, 0, float("nan"), {}, (), ())


def compare_dictionaries(
    models: Sequence[ComparedModel], unit: Unit, activations: AlignedActivations, settings: SimilaritySettings
) -> DictionaryComparison:
    """Compare the dictionaries of all sites, cropped to the size of the smallest, those of other orders included.

    Args:
        models: models with their dictionaries.
        unit: the unit their tokens are aligned by.
        activations: tokens on which the use of atoms is counted.
        settings: measures, and numbers of orders and resamples.

    Raises:
        InputError: no source that all fits have read, or dictionaries with too few such atoms.
    """
    tables = _tables(models, settings.orders)
    start = time.perf_counter()
    spans = common_sources([model.data.rows("train") for model in models], unit)
    universe = Universe(spans, unit, settings.resamples)
    members = dict(zip(tables, universe.members(list(tables.values())), strict=True))
    kept = equal_atoms(members)
    sets = {fit: SourceSet.plain(members[fit][atoms]) for fit, atoms in kept.items()}
    sites = [Fit(model.name, hook) for model in models for hook in model.hook_names]
    atoms = len(kept[sites[0]])
    chance = universe.compared(sets[sites[0]], sets[sites[0]]).expected
    matrices = {}
    if "jaccard" in settings.measures:
        index = _all_pairs(universe, [sets[site] for site in sites], settings.resamples)
        seconds = time.perf_counter() - start
        matrices["jaccard"] = SiteMatrix(index.values - chance, index.resampled - chance, seconds)
    if "weighted_jaccard" in settings.measures:
        start = time.perf_counter()
        dictionaries = [model.dictionaries[hook] for model in models for hook in model.hook_names]
        cropped = [_cropped(one, kept[site]) for one, site in zip(dictionaries, sites, strict=True)]
        weighted = [
            SourceSet.weighted(members[site][kept[site]], use)
            for site, use in zip(sites, count_uses(cropped, activations), strict=True)
        ]
        index = _all_pairs(universe, weighted, settings.resamples)
        matrices["weighted_jaccard"] = index._replace(seconds=time.perf_counter() - start)
    whole = _whole_models(models, universe, sets)
    reordered = _reordered(models, universe, sets, settings.orders)
    return DictionaryComparison(atoms, len(universe), chance, matrices, whole, reordered)


def count_uses(dictionaries: Sequence[Dictionary], activations: AlignedActivations) -> list[Float[Tensor, " n"]]:
    """Return for each site (n,) float64: the number of tokens that use each atom of its dictionary."""
    uses = [torch.zeros(dictionary.n_atoms, dtype=torch.float64) for dictionary in dictionaries]
    for _, x in activations.batches("Use of atoms"):
        for use, dictionary, part in zip(uses, dictionaries, x, strict=True):
            support = dictionary.encode(part).distinct().support
            use += support[support >= 0].bincount(minlength=len(use))
    return uses


def _tables(models: Sequence[ComparedModel], orders: int) -> dict[Fit, Int[Tensor, "_ 6"]]:
    """Return the sources of every fit."""
    tables = {}
    for model in models:
        for hook in model.hook_names:
            tables[Fit(model.name, hook)] = model.dictionaries[hook].source_table
        for order in range(1, orders + 1):
            # Far from the seeds of the data and of draws from it, which are small.
            batches = reordered_batches(model.data, model.data.hparams["seed"] + 1000 * order)
            for hook, table in regrown(model.dictionaries, batches).items():
                tables[Fit(model.name, hook, order)] = table
    return tables


def _all_pairs(universe: Universe, sets: Sequence[SourceSet], resamples: int) -> SiteMatrix:
    matrix = SiteMatrix.ones(len(sets), resamples)
    for i, j in itertools.combinations(range(len(sets)), 2):
        matrix.put(i, j, *universe.groups.ratios(*universe.overlap(sets[i], sets[j])))
    return matrix


def _whole_models(
    models: Sequence[ComparedModel], universe: Universe, sets: Mapping[Fit, SourceSet]
) -> tuple[WholeModels, ...]:
    unions = [(model.name, _union(model, sets)) for model in models]
    return tuple(
        WholeModels(first, second, universe.compared(one, other))
        for (first, one), (second, other) in itertools.combinations(unions, 2)
    )


def _reordered(
    models: Sequence[ComparedModel], universe: Universe, sets: Mapping[Fit, SourceSet], orders: int
) -> tuple[Reordered, ...]:
    numbers = range(1, orders + 1)
    entries = []
    for model in models if orders else ():
        for hook in model.hook_names:
            own = sets[Fit(model.name, hook)]
            overlaps = tuple(universe.compared(own, sets[Fit(model.name, hook, order)]) for order in numbers)
            entries.append(Reordered(model.name, hook, overlaps))
        unions = [_union(model, sets, order) for order in (0, *numbers)]
        entries.append(Reordered(model.name, None, tuple(universe.compared(unions[0], union) for union in unions[1:])))
    return tuple(entries)


def _union(model: ComparedModel, sets: Mapping[Fit, SourceSet], order: int = 0) -> SourceSet:
    return SourceSet.plain(torch.cat([sets[Fit(model.name, hook, order)].members for hook in model.hook_names]))


def _cropped(dictionary: Dictionary, atoms: Int[Tensor, " n"]) -> Dictionary:
    return Dictionary(
        dictionary.atoms[atoms],
        dictionary.bias,
        k=dictionary.k,
        pursuit=dictionary.pursuit,
        nonnegative=dictionary.nonnegative,
    )
