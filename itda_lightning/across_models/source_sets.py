"""Dictionaries as sets of sources of one universe, of equal size, with what pairs of them have in common."""

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.across_models.alignment import Unit, index_among, source_spans
from itda_lightning.comparison.bootstrap import DocumentGroups, standard_error
from itda_lightning.errors import InputError
from itda_lightning.measures.jaccard import expected_jaccard
from itda_lightning.results.model_similarity import Overlap

# With fewer atoms an index takes a handful of values only.
FEWEST_ATOMS = 10

Name = TypeVar("Name", bound=Hashable)


class Universe:
    """The sources that could have become atoms of any of the dictionaries that are compared.

    Args:
        spans: (m, 3) document, start and end of each, distinct; as ``common_sources`` gives them.
        unit: what they are aligned by.
        resamples: how often documents are resampled for errors.

    Raises:
        InputError: resamples of sources of a single document.
    """

    def __init__(self, spans: Int[Tensor, "m 3"], unit: Unit, resamples: int) -> None:
        self.spans, self.unit = spans, unit
        self.groups = DocumentGroups(spans[:, 0], resamples)

    def __len__(self) -> int:
        return len(self.spans)

    def members(self, tables: Sequence[Int[Tensor, "_ 6"]]) -> list[Int[Tensor, " n"]]:
        """For the sources of each dictionary the indices of its atoms, -1 for what the other fits have not read."""
        spans = torch.cat([source_spans(table, self.unit) for table in tables])
        return list(index_among(self.spans, spans).split([len(table) for table in tables]))

    def overlap(self, first: "SourceSet", second: "SourceSet") -> tuple[Tensor, Tensor]:
        """(groups,) float64 each: what two sets have in common and what either has, of each group of documents."""
        common, in_first, in_second = _common(first.members, second.members)
        documents = self.spans[:, 0]
        shared = self.groups.sums(documents[common], torch.minimum(first.use[in_first], second.use[in_second]))
        all_of = [self.groups.sums(documents[one.members], one.use) for one in (first, second)]
        return shared, all_of[0] + all_of[1] - shared

    def compared(self, first: "SourceSet", second: "SourceSet") -> Overlap:
        """The Jaccard index of two sets beside chance."""
        value, resampled = self.groups.ratios(*self.overlap(first, second))
        expected = expected_jaccard(len(first.members), len(second.members), len(self))
        return Overlap(float(value), expected, float(standard_error(resampled)))


class SourceSet(NamedTuple):
    """Distinct sources with a weight each.

    Attributes:
        members: (n,) int64 indices into the universe, sorted.
        use: (n,) float64 weights; all 1 where only being there counts.
    """

    members: Int[Tensor, " n"]
    use: Float[Tensor, " n"]

    @classmethod
    def plain(cls, index: Int[Tensor, " n"]) -> "SourceSet":
        """The distinct ones of the indices, with weight 1."""
        distinct = index.unique()
        return cls(distinct, torch.ones(len(distinct), dtype=torch.float64))

    @classmethod
    def weighted(cls, index: Int[Tensor, " n"], use: Float[Tensor, " n"]) -> "SourceSet":
        """With shares of the total use; a source that comes twice has the sum. All are unused where the total is 0."""
        distinct, inverse = index.unique(return_inverse=True)
        total = torch.zeros(len(distinct), dtype=torch.float64).index_add_(0, inverse, use.double())
        return cls(distinct, total / total.sum().clamp(min=1e-300))


def equal_atoms(members: Mapping[Name, Int[Tensor, "..."]]) -> dict[Name, Int[Tensor, " n"]]:
    """Which atoms of each dictionary count, so that all have as many distinct sources: the first ones of each.

    Atoms that other fits have not read, and those whose source an earlier atom has, do not count. Dictionaries grow from
    their first atom on, so the first n are what the fit had when it had n.

    Args:
        members: for each dictionary, called as messages call it, what ``Universe.members`` gives.

    Returns:
        For each dictionary (n,) positions of atoms, rising; n the same for all.

    Raises:
        InputError: a dictionary with fewer than ``FEWEST_ATOMS`` atoms that count.
    """
    usable = {name: _first_of_each(index) for name, index in members.items()}
    smallest = min(usable, key=lambda name: len(usable[name]))
    n = len(usable[smallest])
    if n < FEWEST_ATOMS:
        raise InputError(
            f"{smallest} has {n} atoms whose sources all fits have read, of {len(members[smallest])}: too few to estimate a "
            f"similarity from; give dictionaries of at least {FEWEST_ATOMS}, fitted on more tokens in common"
        )
    return {name: kept[:n] for name, kept in usable.items()}


def _first_of_each(index: Int[Tensor, " n"]) -> Int[Tensor, " kept"]:
    distinct, inverse = index.unique(return_inverse=True)
    first = torch.full((len(distinct),), len(index))
    first.scatter_reduce_(0, inverse, torch.arange(len(index)), "amin")
    return first[distinct >= 0].sort().values


def _common(a: Int[Tensor, " n"], b: Int[Tensor, " m"]) -> tuple[Tensor, Tensor, Tensor]:
    """The common values of two sorted distinct sequences, and where they are in each."""
    place = torch.searchsorted(b, a).clamp(max=max(len(b) - 1, 0))
    same = b[place] == a if len(b) else torch.zeros_like(a, dtype=torch.bool)
    return a[same], same.nonzero()[:, 0], place[same]
