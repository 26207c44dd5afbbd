"""Dictionaries as sets of sources of one universe, cropped to equal size, and the overlap of two of them."""

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.across_models.alignment import Unit, index_among, source_spans
from itda_lightning.comparison.bootstrap import DocumentGroups, standard_error
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.sources import Sources
from itda_lightning.errors import InputError
from itda_lightning.measures.jaccard import expected_jaccard
from itda_lightning.results.model_similarity import Overlap

# With fewer atoms a Jaccard index takes only a handful of values.
FEWEST_ATOMS = 10

Name = TypeVar("Name", bound=Hashable)


class SourceSet(NamedTuple):
    """Distinct sources, as sorted indices into a universe, each with a float64 weight (1 in a plain set)."""

    members: Int[Tensor, " n"]
    use: Float[Tensor, " n"]

    @classmethod
    def plain(cls, index: Int[Tensor, " n"]) -> "SourceSet":
        """Return the distinct indices, each with weight 1."""
        distinct = index.unique()
        return cls(distinct, torch.ones(len(distinct), dtype=torch.float64))

    @classmethod
    def weighted(cls, index: Int[Tensor, " n"], use: Float[Tensor, " n"]) -> "SourceSet":
        """Return the distinct indices with their shares of the total use; duplicates are summed, 0 of a total of 0."""
        distinct, inverse = index.unique(return_inverse=True)
        total = torch.zeros(len(distinct), dtype=torch.float64).index_add_(0, inverse, use.double())
        return cls(distinct, total / total.sum().clamp(min=1e-300))


class Universe:
    """The sources that could have become atoms of any of the compared dictionaries: ``common_sources``.

    Raises InputError for resamples (of documents, for standard errors) of sources of a single document.
    """

    def __init__(self, spans: Int[Tensor, "m 3"], unit: Unit, resamples: int) -> None:
        self.spans, self.unit = spans, unit
        self.groups = DocumentGroups(spans[:, 0], resamples)

    def __len__(self) -> int:
        return len(self.spans)

    def members(self, tables: Sequence[Int[Tensor, "_ 6"]]) -> list[Int[Tensor, " n"]]:
        """Return for the sources of each dictionary their indices; -1 for a source that not all fits read."""
        spans = torch.cat([source_spans(table, self.unit) for table in tables])
        return list(index_among(self.spans, spans).split([len(table) for table in tables]))

    def overlap(self, first: SourceSet, second: SourceSet) -> tuple[Tensor, Tensor]:
        """Return the weights of the intersection and the union of two sets by document group, (groups,) float64."""
        common, in_first, in_second = _common(first.members, second.members)
        documents = self.spans[:, 0]
        shared = self.groups.sums(documents[common], torch.minimum(first.use[in_first], second.use[in_second]))
        totals = [self.groups.sums(documents[one.members], one.use) for one in (first, second)]
        return shared, totals[0] + totals[1] - shared

    def compared(self, first: SourceSet, second: SourceSet) -> Overlap:
        """Return the Jaccard index of two sets with its chance level and standard error."""
        value, resampled = self.groups.ratios(*self.overlap(first, second))
        expected = expected_jaccard(len(first.members), len(second.members), len(self))
        return Overlap(float(value), expected, float(standard_error(resampled)))


def equal_atoms(members: Mapping[Name, Int[Tensor, "..."]]) -> dict[Name, Int[Tensor, " n"]]:
    """Return the atoms of each dictionary that count, equally many of each: its first ones with distinct sources.

    Atoms with a source that another fit did not read (see ``Universe.members``), or that an earlier atom has, do not
    count. Dictionaries grow from their first atom on, so the first n are what the fit had when it had n. Raises
    InputError for a dictionary, named by its key, with fewer than ``FEWEST_ATOMS`` atoms that count.
    """
    usable = {name: first_of_each(index) for name, index in members.items()}
    smallest = min(usable, key=lambda name: len(usable[name]))
    n = len(usable[smallest])
    if n < FEWEST_ATOMS:
        raise InputError(
            f"{smallest} has {n} atoms whose sources all fits have read, of {len(members[smallest])}: too few to "
            f"estimate a similarity from; give dictionaries of at least {FEWEST_ATOMS}, fitted on more tokens in common"
        )
    return {name: kept[:n] for name, kept in usable.items()}


def cropped(dictionary: Dictionary, atoms: Int[Tensor, " n"] | slice) -> Dictionary:
    """Return a dictionary of some of the atoms, with their sources but without prompts."""
    sources = dictionary.sources
    return Dictionary(
        dictionary.atoms[atoms],
        dictionary.bias,
        None if sources is None else Sources(sources.table[atoms], sources.dataset),
        k=dictionary.k,
        pursuit=dictionary.pursuit,
        nonnegative=dictionary.nonnegative,
        metadata=dictionary.metadata,
    )


def first_of_each(index: Int[Tensor, " n"]) -> Int[Tensor, " kept"]:
    """Return the rising positions at which a value that is not negative comes for the first time."""
    distinct, inverse = index.unique(return_inverse=True)
    first = torch.full((len(distinct),), len(index))
    first.scatter_reduce_(0, inverse, torch.arange(len(index)), "amin")
    return first[distinct >= 0].sort().values


def _common(a: Int[Tensor, " n"], b: Int[Tensor, " m"]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the common values of two sorted distinct sequences, and their places in each."""
    place = torch.searchsorted(b, a).clamp(max=max(len(b) - 1, 0))
    same = b[place] == a if len(b) else torch.zeros_like(a, dtype=torch.bool)
    return a[same], same.nonzero()[:, 0], place[same]
