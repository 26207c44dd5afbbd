"""Sparse codes from activations and atoms. Knows torch and the processes of a run, nothing else of this package."""

from itda_lightning.machine.memory import SMALLEST_BUDGET
from itda_lightning.pursuit.code import SparseCode
from itda_lightning.pursuit.correlation import combine, correlate
from itda_lightning.pursuit.prepared import PreparedAtoms
from itda_lightning.pursuit.problem import Path
from itda_lightning.pursuit.public import (
    check_finite,
    check_sparsity,
    check_unit_rows,
    generalised_orthogonal_matching_pursuit,
    matching_pursuit,
    orthogonal_matching_pursuit,
    pursue,
    pursue_among_ranks,
)
from itda_lightning.pursuit.sharded_atoms import ShardedAtoms
from itda_lightning.pursuit.table import PURSUITS, PursuitName, judging

__all__ = [
    "PURSUITS",
    "SMALLEST_BUDGET",
    "Path",
    "PreparedAtoms",
    "PursuitName",
    "ShardedAtoms",
    "SparseCode",
    "check_finite",
    "check_sparsity",
    "check_unit_rows",
    "combine",
    "correlate",
    "generalised_orthogonal_matching_pursuit",
    "judging",
    "matching_pursuit",
    "orthogonal_matching_pursuit",
    "pursue",
    "pursue_among_ranks",
]
