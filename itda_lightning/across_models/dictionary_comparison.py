"""Dictionaries of several models compared by their sources: layer by layer, as whole models, and with other orders."""

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.across_models.alignment import AlignedActivations, Unit, common_sources
from itda_lightning.across_models.compared_models import ComparedModel
from itda_lightning.across_models.regrowth import regrown, reordered_batches
from itda_lightning.across_models.similarity_settings import SimilaritySettings
from itda_lightning.across_models.site_matrix import SiteMatrix
from itda_lightning.across_models.source_sets import SourceSet, Universe, cropped, equal_atoms
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.measures.jaccard import expected_weighted_jaccard
from itda_lightning.results.model_similarity import Reordered, WholeModels


class Fit(NamedTuple):
    """A fit at one hook point: the dictionary itself (order 0), or one on the tokens in another order (1, 2, ...)."""

    model: str
    hook_name: str
    order: int = 0

    def __str__(self) -> str:
        reordered = ", grown in another order," if self.order else ""
        return f"the dictionary of {self.model} at {self.hook_name}{reordered}"


class DictionaryComparison(NamedTuple):
    """Results of comparing dictionaries by their sources."""

    atoms: int  # of each dictionary that count
    universe: int  # number of sources that could have become atoms
    chance: float  # Jaccard index of two random sets of ``atoms`` sources
    matrices: dict[str, SiteMatrix]
    whole_models: tuple[WholeModels, ...]
    reordered: tuple[Reordered, ...]


NO_DICTIONARIES = DictionaryComparison(0, 0, float("nan"), {}, (), ())


def compare_dictionaries(
    models: Sequence[ComparedModel], unit: Unit, activations: AlignedActivations, settings: SimilaritySettings
) -> DictionaryComparison:
    """Compare the dictionaries of all sites, cropped to the size of the smallest, those of other orders included.

    The use of atoms is counted on ``activations``. Raises InputError as ``common_sources`` and ``equal_atoms``.
    """
    tables = _tables(models, settings.orders)
    start = time.perf_counter()
    spans = common_sources([model.data.rows("train") for model in models], unit)
    universe = Universe(spans, unit, settings.resamples)
    members = dict(zip(tables, universe.members(list(tables.values())), strict=True))
    kept = equal_atoms(members)
    sets = {fit: SourceSet.plain(members[fit][atoms]) for fit, atoms in kept.items()}
    dictionaries = {Fit(model.name, hook): model.dictionaries[hook] for model in models for hook in model.hook_names}
    first = next(iter(dictionaries))
    atoms = len(kept[first])
    chance = universe.compared(sets[first], sets[first]).expected
    matrices = {}
    if "jaccard" in settings.measures:
        plain = _all_pairs(universe, [sets[site] for site in dictionaries], start)
        null = torch.zeros_like(plain.null).fill_diagonal_(torch.nan)
        matrices["jaccard"] = plain._replace(
            values=plain.values - chance, resampled=plain.resampled - chance, null=null
        )
    if "weighted_jaccard" in settings.measures:
        start = time.perf_counter()
        uses = _count_uses([cropped(one, kept[site]) for site, one in dictionaries.items()], activations)
        weighted = [
            SourceSet.weighted(members[site][kept[site]], use) for site, use in zip(dictionaries, uses, strict=True)
        ]
        matrices["weighted_jaccard"] = _all_pairs(universe, weighted, start)
    unions = [(model.name, _union(model, sets)) for model in models]
    whole = tuple(
        WholeModels(first, second, universe.compared(one, other))
        for (first, one), (second, other) in itertools.combinations(unions, 2)
    )
    reordered = tuple(_reordered(models, universe, sets, settings.orders)) if settings.orders else ()
    return DictionaryComparison(atoms, len(universe), chance, matrices, whole, reordered)


def _count_uses(dictionaries: Sequence[Dictionary], activations: AlignedActivations) -> list[Float[Tensor, " n"]]:
    """Return for each site the number of tokens that use each atom of its dictionary, float64."""
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


def _all_pairs(universe: Universe, sets: Sequence[SourceSet], start: float) -> SiteMatrix:
    pairs = [universe.groups.ratios(*universe.overlap(one, other)) for one, other in itertools.combinations(sets, 2)]
    nulls = [
        expected_weighted_jaccard(one.use, other.use, len(universe)) for one, other in itertools.combinations(sets, 2)
    ]
    return SiteMatrix.symmetric(len(sets), pairs, nulls, start)


def _reordered(
    models: Sequence[ComparedModel], universe: Universe, sets: Mapping[Fit, SourceSet], orders: int
) -> Iterator[Reordered]:
    """Yield the overlaps of every dictionary, and of every model's union of them, with those of other orders."""
    for model in models:
        fits: dict[str | None, list[SourceSet]] = {
            hook: [sets[Fit(model.name, hook, order)] for order in range(orders + 1)] for hook in model.hook_names
        }
        fits[None] = [_union(model, sets, order) for order in range(orders + 1)]
        for hook, (own, *others) in fits.items():
            yield Reordered(model.name, hook, tuple(universe.compared(own, other) for other in others))


def _union(model: ComparedModel, sets: Mapping[Fit, SourceSet], order: int = 0) -> SourceSet:
    return SourceSet.plain(torch.cat([sets[Fit(model.name, hook, order)].members for hook in model.hook_names]))
