"""Pursuits in float64 numpy, one activation at a time, straight from their definitions. Slow on purpose.

Rounding may turn an exact tie either way, and after that two correct paths differ. So an oracle can be given the
support that is under test: it follows it, but only at steps where its own float64 numbers say that the decision was too
close to call. Everywhere else it goes its own way, and comparing the two supports then shows the difference.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NOISE_FLOOR = 1e-6
MIN_NEW_DIRECTION = 1e-6
# Two scores are tied if their gap is below this share of the residual.
TIE = 1e-6


class OracleCode(NamedTuple):
    support: list[int]
    coefficients: list[float]
    residual: Array


@dataclass(frozen=True)
class Witness:
    """The support under test, with the precision it was computed in.

    ``rounding`` is the relative error of its inner products: a decision within ``rounding * |x|`` is too close to call.
    """

    support: Sequence[int]
    rounding: float

    def continued(self, step: int) -> bool:
        return step < len(self.support)


def matching_pursuit(
    x: Array,
    atoms: Array,
    k: int,
    nonnegative: bool = False,
    error_threshold: float | None = None,
    witness: Witness | None = None,
) -> OracleCode:
    """Subtract the best atom's share of the residual, k times; an atom may be picked again (Mallat and Zhang)."""
    code = OracleCode([], [], x.astype(np.float64))
    for step in range(k):
        if _ends(x, code.residual, error_threshold, step, witness):
            break
        pick, correlation = _best_atom(x, code.residual, atoms, nonnegative, step, witness)
        if pick is None:
            break
        code = OracleCode(
            [*code.support, pick], [*code.coefficients, correlation], code.residual - correlation * atoms[pick]
        )
    return code


def orthogonal_matching_pursuit(
    x: Array,
    atoms: Array,
    k: int,
    nonnegative: bool = False,
    error_threshold: float | None = None,
    witness: Witness | None = None,
) -> OracleCode:
    """Add the best atom to the support and solve all coefficients by least squares, k times (Pati et al.).

    Ends before a linearly dependent atom and, if ``nonnegative``, before a negative least-squares coefficient.
    """
    code = OracleCode([], [], x.astype(np.float64))
    for step in range(k):
        if _ends(x, code.residual, error_threshold, step, witness):
            break
        pick, _ = _best_atom(x, code.residual, atoms, nonnegative, step, witness)
        if pick is None or pick in code.support:
            break
        _, outside = _least_squares(atoms[pick], atoms[code.support])
        independence = float(outside @ outside)
        if _at_most(independence, MIN_NEW_DIRECTION, 1.0, step, witness):
            break
        support = [*code.support, pick]
        coefficients, residual = _least_squares(x, atoms[support])
        # Dividing by a short new direction magnifies the rounding of the coefficients.
        scale = float(np.linalg.norm(x)) / max(independence, MIN_NEW_DIRECTION)
        if nonnegative and not _nonnegative(float(coefficients.min()), scale, step, witness):
            break
        code = OracleCode(support, coefficients.tolist(), residual)
    return code


class GeneralisedCode(NamedTuple):
    """A code, and the margin of its closest decision as a share of |x|."""

    support: list[int]
    coefficients: list[float]
    residual: Array
    margin: float


def generalised_orthogonal_matching_pursuit(
    x: Array, atoms: Array, k: int, nonnegative: bool = False, error_threshold: float | None = None
) -> GeneralisedCode:
    """Add a third of k of the best atoms at a time to the support and solve by least squares (Wang, Kwon and Shim).

    Dependent atoms leave the support and, if ``nonnegative``, all with negative coefficients, until there are none.
    """
    support: list[int] = []
    coefficients, residual = np.zeros(0), x.astype(np.float64)
    norm, margin, at_a_time = float(np.linalg.norm(x)), math.inf, math.ceil(k / 3)
    for filled in range(0, k, at_a_time):
        energy, target = float(residual @ residual), (error_threshold or 0.0) * norm**2
        if norm == 0 or (error_threshold is not None and energy <= target):
            break
        correlation = atoms @ residual
        score = correlation if nonnegative else np.abs(correlation)
        score[support] = -np.inf
        order = np.argsort(-score, kind="stable")
        best = [int(atom) for atom in order[: min(at_a_time, k - filled)] if score[atom] > NOISE_FLOOR * norm]
        if not best:
            break
        gaps = -np.diff(score[order[: len(best) + 1]]) / norm
        margin = min([margin, float(gaps.min()) if len(gaps) else margin, abs(energy - target) / norm**2])
        support = independent([*support, *best], atoms)
        while True:
            coefficients, residual = _least_squares(x, atoms[support])
            margin = min(margin, float(np.abs(coefficients).min()) / norm) if nonnegative else margin
            if not nonnegative or (coefficients >= 0).all():
                break
            support = [atom for atom, value in zip(support, coefficients, strict=True) if value >= 0]
    return GeneralisedCode(support, coefficients.tolist(), residual, margin)


def independent(support: list[int], atoms: Array) -> list[int]:
    """The atoms of a support that do not depend linearly on those before them."""
    kept: list[int] = []
    for atom in support:
        _, outside = _least_squares(atoms[atom], atoms[kept])
        if outside @ outside > MIN_NEW_DIRECTION:
            kept.append(atom)
    return kept


def _ends(x: Array, residual: Array, error_threshold: float | None, step: int, witness: Witness | None) -> bool:
    energy = float(x @ x)
    if energy == 0:
        return True
    if error_threshold is None:
        return False
    return _at_most(float(residual @ residual), error_threshold * energy, energy, step, witness)


def _best_atom(
    x: Array, residual: Array, atoms: Array, nonnegative: bool, step: int, witness: Witness | None
) -> tuple[int | None, float]:
    """Return the atom of this step with its correlation; None if nothing correlates above the noise floor."""
    correlation = np.einsum("nd,d->n", atoms, residual)  # in one order for all rows: equal atoms have equal scores
    score = correlation if nonnegative else np.abs(correlation)
    norm = float(np.linalg.norm(x))
    if not len(score) or _at_most(float(score.max()), NOISE_FLOOR * norm, norm, step, witness):
        return None, 0.0
    best = int(np.argmax(score))
    if witness is not None:
        tied = score[best] - score <= TIE * np.linalg.norm(residual) + witness.rounding * norm
        if tied.sum() > 1 and witness.continued(step) and tied[witness.support[step]]:
            best = witness.support[step]
    return best, float(correlation[best])


def _at_most(value: float, limit: float, scale: float, step: int, witness: Witness | None) -> bool:
    """Check ``value <= limit``, a reason to end; if that is too close to call, check whether the witness ended."""
    if witness is not None and abs(value - limit) <= witness.rounding * scale:
        return not witness.continued(step)
    return value <= limit


def _nonnegative(smallest: float, scale: float, step: int, witness: Witness | None) -> bool:
    if witness is not None and abs(smallest) <= witness.rounding * scale:
        return witness.continued(step)
    return smallest >= 0


def _least_squares(x: Array, rows: Array) -> tuple[Array, Array]:
    if not len(rows):
        return np.zeros(0), x.astype(np.float64)
    coefficients, *_ = np.linalg.lstsq(rows.T, x, rcond=None)
    return coefficients.astype(np.float64), x - coefficients @ rows


class Pruned(NamedTuple):
    """A pruned code; ``margin`` is how far its closest decision was from another one, as a share of ``|x|^2``."""

    support: list[int]
    coefficients: list[float]
    energy: float
    margin: float


def pruned(x: Array, atoms: Array, support: Sequence[int], least_gain: float, nonnegative: bool) -> Pruned:
    """Leave out the atom without which least squares is least worse, while that costs less than the least gain."""
    support, margin = list(support), math.inf
    total = max(float(x @ x), 1e-300)
    while True:
        coefficients, energy = _fit(x, atoms, support)
        costs = []
        for s in range(len(support)):
            cost = (_fit(x, atoms, support[:s] + support[s + 1 :])[1] - energy) / total
            costs.append(-cost if nonnegative and coefficients[s] < 0 else cost)
        if not costs:
            return Pruned(support, [], energy, margin)
        first, *others = sorted(costs)
        decided = first < least_gain
        margin = min([margin, abs(first - least_gain), *(other - first for other in others[:1] if decided)])
        if nonnegative:
            margin = min([margin, *(abs(cost) for cost in costs)])
        if not decided:
            return Pruned(support, list(coefficients), energy, margin)
        support.pop(costs.index(first))


def _fit(x: Array, atoms: Array, support: Sequence[int]) -> tuple[Array, float]:
    chosen = atoms[list(support)].T
    solved = np.linalg.lstsq(chosen, x, rcond=None)[0] if len(support) else np.zeros(0)
    coefficients = np.asarray(solved, np.float64)
    residual = x - chosen @ coefficients
    return coefficients, float(residual @ residual)
