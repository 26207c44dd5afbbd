"""Dictionaries of several models compared by their sources: layer by layer, as whole models, and with other orders."""

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.across_models.aligned_activations import AlignedActivations
from itda_lightning.across_models.alignment import Unit, common_sources
from itda_lightning.across_models.compared import ComparedModel
from itda_lightning.across_models.measured import Measured
from itda_lightning.across_models.orders import regrown, reordered_batches
from itda_lightning.across_models.similarity_settings import SimilaritySettings
from itda_lightning.across_models.source_sets import SourceSet, Universe, equal_atoms
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.results.model_similarity import Reordered, WholeModels


class Fit(NamedTuple):
    """One fit of one hook point: the dictionary itself (order 0), or one on the same tokens in another order (1, 2,
    ...).
    """

    model: str
    hook_name: str
    order: int = 0

    def __str__(self) -> str:
        return f"the dictionary of {self.model} at {self.hook_name}" + (
            ", grown in another order," if self.order else ""
        )


class DictionaryComparison(NamedTuple):
    """What comparing sources gives.

    Attributes:
        atoms: how many of each dictionary count.
        universe: how many sources could have become atoms.
        chance: the index of two random sets of ``atoms`` sources.
        measured: measure -> values of all pairs of sites.
        whole_models: the unions of all pairs of models.
        reordered: every dictionary and every model beside its fits in other orders.
    """

    atoms: int
    universe: int
    chance: float
    measured: dict[str, Measured]
    whole_models: tuple[WholeModels, ...]
    reordered: tuple[Reordered, ...]


def compare_dictionaries(
    models: Sequence[ComparedModel], unit: Unit, activations: AlignedActivations, settings: SimilaritySettings
) -> DictionaryComparison:
    """Compare the dictionaries of all sites, all cropped to the size of the smallest, those of other orders included.

    Args:
        models: with their dictionaries.
        unit: what their tokens are aligned by.
        activations: the tokens that use is counted on.
        settings: which measures, and how many orders and resamples.

    Raises:
        InputError: nothing in common that all fits have read, or dictionaries of too few such atoms.
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
    measured = {}
    if "jaccard" in settings.measures:
        index = _all_pairs(universe, [sets[site] for site in sites], settings.resamples)
        seconds = time.perf_counter() - start
        measured["jaccard"] = Measured(index.values - chance, index.resampled - chance, seconds)
    if "weighted_jaccard" in settings.measures:
        start = time.perf_counter()
        cropped = [
            _cropped(model.dictionaries[hook], kept[Fit(model.name, hook)])
            for model in models
            for hook in model.hook_names
        ]
        weighted = [
            SourceSet.weighted(members[site][kept[site]], use)
            for site, use in zip(sites, count_uses(cropped, activations), strict=True)
        ]
        index = _all_pairs(universe, weighted, settings.resamples)
        measured["weighted_jaccard"] = index._replace(seconds=time.perf_counter() - start)
    whole = _whole_models(models, universe, sets)
    reordered = _reordered(models, universe, sets, settings.orders)
    return DictionaryComparison(atoms, len(universe), chance, measured, whole, reordered)


def count_uses(dictionaries: Sequence[Dictionary], activations: AlignedActivations) -> list[Float[Tensor, " n"]]:
    """Of each site's dictionary (n,) how many of the tokens use each atom."""
    uses = [torch.zeros(dictionary.n_atoms, dtype=torch.float64) for dictionary in dictionaries]
    for _, x in activations.batches("Use of atoms"):
        for use, dictionary, part in zip(uses, dictionaries, x, strict=True):
            support = dictionary.encode(part).distinct().support
            use += support[support >= 0].bincount(minlength=len(use))
    return uses


def _tables(models: Sequence[ComparedModel], orders: int) -> dict[Fit, Int[Tensor, "_ 6"]]:
    """The sources of every fit."""
    tables = {}
    for model in models:
        for hook in model.hook_names:
            tables[Fit(model.name, hook)] = model.dictionaries[hook].source_table
        for order in range(1, orders + 1):
            # Seeds of the data, and of draws from it, are small.
            batches = reordered_batches(model.data, model.data.hparams["seed"] + 1000 * order)
            for hook, table in regrown(model.dictionaries, batches).items():
                tables[Fit(model.name, hook, order)] = table
    return tables


def _all_pairs(universe: Universe, sets: Sequence[SourceSet], resamples: int) -> Measured:
    measured = Measured.ones(len(sets), resamples)
    for i, first in enumerate(sets):
        for j in range(i + 1, len(sets)):
            measured.put(i, j, *universe.groups.ratios(*universe.overlap(first, sets[j])))
    return measured


def _whole_models(
    models: Sequence[ComparedModel], universe: Universe, sets: Mapping[Fit, SourceSet]
) -> tuple[WholeModels, ...]:
    unions = [_union(model, sets) for model in models]
    return tuple(
        WholeModels(models[a].name, models[b].name, universe.compared(unions[a], unions[b]))
        for a in range(len(models))
        for b in range(a + 1, len(models))
    )


def _reordered(
    models: Sequence[ComparedModel], universe: Universe, sets: Mapping[Fit, SourceSet], orders: int
) -> tuple[Reordered, ...]:
    numbers = range(1, orders + 1)
    found = []
    for model in models if orders else ():
        for hook in model.hook_names:
            own = sets[Fit(model.name, hook)]
            overlaps = tuple(universe.compared(own, sets[Fit(model.name, hook, order)]) for order in numbers)
            found.append(Reordered(model.name, hook, overlaps))
        unions = [_union(model, sets, order) for order in (0, *numbers)]
        found.append(Reordered(model.name, None, tuple(universe.compared(unions[0], union) for union in unions[1:])))
    return tuple(found)


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
