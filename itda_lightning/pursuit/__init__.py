"""Sparse codes from activations and atoms. Knows torch and the processes of a run, nothing else of this package."""

from itda_lightning.machine.memory import SMALLEST_BUDGET
from itda_lightning.pursuit.code import SparseCode
from itda_lightning.pursuit.correlation import combine, correlate
from itda_lightning.pursuit.prepared import PreparedAtoms
from itda_lightning.pursuit.problem import Path
from itda_lightning.pursuit.pruning import (
    Pruned,
    check_least_gain,
    encode_in_parts,
    gain_for_l0,
    leave_one_out,
    prune,
    prune_chosen,
)
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
from itda_lightning.pursuit.support_products import support_products
from itda_lightning.pursuit.table import PURSUITS, PursuitName, judging

__all__ = [
    "PURSUITS",
    "SMALLEST_BUDGET",
    "Path",
    "PreparedAtoms",
    "Pruned",
    "PursuitName",
    "ShardedAtoms",
    "SparseCode",
    "check_finite",
    "check_least_gain",
    "check_sparsity",
    "check_unit_rows",
    "combine",
    "correlate",
    "encode_in_parts",
    "gain_for_l0",
    "generalised_orthogonal_matching_pursuit",
    "judging",
    "leave_one_out",
    "matching_pursuit",
    "orthogonal_matching_pursuit",
    "prune",
    "prune_chosen",
    "pursue",
    "pursue_among_ranks",
    "support_products",
]
