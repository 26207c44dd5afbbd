"""Pursuits in plain torch, with or without a Gram, on any device and in any precision."""

from itda_lightning.pursuit.algorithm import Pursuit
from itda_lightning.pursuit.code import SparseCode
from itda_lightning.pursuit.correlation import (
    GramCorrelations,
    LocalCorrelations,
    ResidualCorrelations,
    VisibleCorrelations,
    combine,
)
from itda_lightning.pursuit.prepared import PreparedAtoms
from itda_lightning.pursuit.problem import Problem


def encode(pursuit: Pursuit, problem: Problem, prepared: PreparedAtoms) -> SparseCode:
    """Encode block by block; at least one atom and one activation."""
    codes = []
    for block in problem.blocks(pursuit.rows_in_torch(prepared, problem.k), prepared.dtype):
        code = pursuit.run(block, _correlations(pursuit, block, prepared))
        residual = block.x - combine(code.support, code.coefficients, prepared.atoms)
        codes.append(code._replace(residual_energy=residual.double().square().sum(-1).to(prepared.dtype)))
    return SparseCode.concatenate(codes)


def _correlations(pursuit: Pursuit, block: Problem, prepared: PreparedAtoms) -> LocalCorrelations:
    correlations: LocalCorrelations
    if pursuit.takes_gram and prepared.gram is not None:
        correlations = GramCorrelations(block.x, prepared.atoms, prepared.gram[: prepared.n, : prepared.n])
    else:
        correlations = ResidualCorrelations(block.x, prepared.atoms)
    return correlations if block.visible is None else VisibleCorrelations(correlations, block.visible)
