"""How alike two dictionaries, or two representations of the same tokens, are. One measure a file."""

from itda_lightning.similarity.jaccard import jaccard
from itda_lightning.similarity.linear_cka import cka
from itda_lightning.similarity.relative import relative_similarity
from itda_lightning.similarity.singular_vectors import svcca

__all__ = ["cka", "jaccard", "relative_similarity", "svcca"]
