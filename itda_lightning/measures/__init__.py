"""Similarity of two dictionaries, or of two representations of the same tokens. One measure per file.

A measure of representations is a function of two tensors (``cka(x, y)``) with a streamed twin that gives the same
result from batches: a function of the sums of a ``Moments`` (``cka_of(moments)``), or an accumulator with ``update``
and ``compute`` (``RelativeSimilarity``, ``MutualNeighbours``). ``aligned_cosine`` and measures of all pairs of tokens
(``distance_correlation``, ``rsa``, ``second_order_cosine``) are functions of a sample of tokens.

Each has a null: its value when the rows of one side are permuted (``null_of``, ``cka_null_of``, ...); see ``excess``.
"""

from itda_lightning.measures.aligned_cosine import aligned_cosine, aligned_cosine_null
from itda_lightning.measures.angular import angular_procrustes, angular_procrustes_of
from itda_lightning.measures.cca import pwcca, pwcca_of, svcca, svcca_of
from itda_lightning.measures.cka import cka, cka_null_of, cka_of
from itda_lightning.measures.distance_correlation import distance_correlation
from itda_lightning.measures.jaccard import (
    JaccardOverChance,
    expected_jaccard,
    expected_weighted_jaccard,
    jaccard,
    jaccard_over_chance,
    weighted_jaccard,
)
from itda_lightning.measures.moments import CrossMoments, Moments
from itda_lightning.measures.neighbours import MutualNeighbours, mutual_neighbours, neighbours_null
from itda_lightning.measures.permuted import excess, null_of
from itda_lightning.measures.procrustes import procrustes, procrustes_of
from itda_lightning.measures.regression import regression_null_of, regression_r2, regression_r2_of
from itda_lightning.measures.relative import RelativeSimilarity, relative_similarity
from itda_lightning.measures.rsa import rsa
from itda_lightning.measures.second_order import second_order_cosine

__all__ = [
    "CrossMoments",
    "JaccardOverChance",
    "Moments",
    "MutualNeighbours",
    "RelativeSimilarity",
    "aligned_cosine",
    "aligned_cosine_null",
    "angular_procrustes",
    "angular_procrustes_of",
    "cka",
    "cka_null_of",
    "cka_of",
    "distance_correlation",
    "excess",
    "expected_jaccard",
    "expected_weighted_jaccard",
    "jaccard",
    "jaccard_over_chance",
    "mutual_neighbours",
    "neighbours_null",
    "null_of",
    "procrustes",
    "procrustes_of",
    "pwcca",
    "pwcca_of",
    "regression_null_of",
    "regression_r2",
    "regression_r2_of",
    "relative_similarity",
    "rsa",
    "second_order_cosine",
    "svcca",
    "svcca_of",
    "weighted_jaccard",
]
