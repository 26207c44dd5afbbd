"""How alike two dictionaries, or two representations of the same tokens, are. One measure a file.

Measures of representations come twice: of two tensors (``cka(x, y)``), and of what is summed over batches (``cka_of(moments)``
of a ``Moments`` pair, ``RelativeSimilarity``, ``MutualNeighbours``), with the same results.
"""

from itda_lightning.measures.cka import cka, cka_of
from itda_lightning.measures.jaccard import jaccard, weighted_jaccard
from itda_lightning.measures.jaccard_chance import JaccardOverChance, expected_jaccard, jaccard_over_chance
from itda_lightning.measures.moments import CrossMoments, Moments
from itda_lightning.measures.neighbours import MutualNeighbours, mutual_neighbours
from itda_lightning.measures.procrustes import procrustes, procrustes_of
from itda_lightning.measures.projection_weighted import pwcca, pwcca_of
from itda_lightning.measures.regression import regression_r2, regression_r2_of
from itda_lightning.measures.relative import RelativeSimilarity, relative_similarity
from itda_lightning.measures.singular_vectors import svcca, svcca_of

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
