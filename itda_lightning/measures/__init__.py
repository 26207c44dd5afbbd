"""Similarity of two dictionaries, or of two representations of the same tokens. One measure per file.

A measure of representations is a function of two tensors (``cka(x, y)``) with a streamed twin that gives the same
result from batches: a function of the sums of a ``Moments`` (``cka_of(moments)``), or an accumulator with ``update``
and ``compute`` (``RelativeSimilarity``, ``MutualNeighbours``).
"""

from itda_lightning.measures.cca import pwcca, pwcca_of, svcca, svcca_of
from itda_lightning.measures.cka import cka, cka_of
from itda_lightning.measures.jaccard import (
    JaccardOverChance,
    expected_jaccard,
    jaccard,
    jaccard_over_chance,
    weighted_jaccard,
)
from itda_lightning.measures.moments import CrossMoments, Moments
from itda_lightning.measures.neighbours import MutualNeighbours, mutual_neighbours
from itda_lightning.measures.procrustes import procrustes, procrustes_of
from itda_lightning.measures.regression import regression_r2, regression_r2_of
from itda_lightning.measures.relative import RelativeSimilarity, relative_similarity

__all__ = [
    "CrossMoments",
    "JaccardOverChance",
    "Moments",
    "MutualNeighbours",
    "RelativeSimilarity",
    "cka",
    "cka_of",
    "expected_jaccard",
    "jaccard",
    "jaccard_over_chance",
    "mutual_neighbours",
    "procrustes",
    "procrustes_of",
    "pwcca",
    "pwcca_of",
    "regression_r2",
    "regression_r2_of",
    "relative_similarity",
    "svcca",
    "svcca_of",
    "weighted_jaccard",
]
