"""Choose the failures to append in one round of worst-first growth: a pivoted Cholesky factorization, in panels.

The worst failure becomes an atom, the direction of its residual is removed from the others, and so on. To do so with
one direction at a time reads all residuals for each atom, and waits for memory. But shares only fall: those of the
rows that are not looked at are limits. So the worst few hundred rows, the panel, are kept up to date, until the worst
of them is no worse than the others were; then these catch up, with one product for all new directions.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from itda_lightning.growth.rule import DUPLICATE_COSINE, GrowthRule
from itda_lightning.pursuit import correlate
from itda_lightning.pursuit.correlation import full_precision

# A larger panel lasts longer, but each atom goes through all of it.
PANEL = 256
# Rows that catch up at a time: they should stay in the cache.
PART = 2048


def choose_pivots(
    residual: Float[Tensor, "m d"],
    share: Float[Tensor, " m"],
    atoms: Float[Tensor, "m d"],
    rule: GrowthRule,
    bound: float,
    room: int,
) -> Int[Tensor, " p"]:
    """Choose at most ``room`` failures, the worst first, and overwrite ``residual`` and ``share``.

    Residuals are those of activations scaled to a reference energy of 1, with energies ``share``. A component is
    removed from those of whose energy it is more than the share ``bound``.
    """
    rows = torch.arange(len(share), device=share.device)
    chosen = rows[:0]
    while len(chosen) < room and bool((failing := share > rule.threshold).any()):
        if 2 * int(failing.sum()) < len(rows):
            rows, residual, share = rows[failing], residual[failing], share[failing]
        order = share.argsort(descending=True, stable=True)
        panel, others = order[:PANEL].sort().values, order[PANEL:]
        limit = float(share[others[0]]) if len(others) else 0.0
        candidates = atoms[rows[panel]]
        current = share[panel].masked_fill_(rule.repeats(candidates, atoms[chosen]), 0.0)
        new, directions = _choose(residual[panel], current, candidates, rule, bound, limit, room - len(chosen))
        chosen = torch.cat([chosen, rows[panel[new]]])
        share[panel[current <= 0]] = 0
        for part in zip(residual.split(PART), share.split(PART), strict=True):
            _catch_up(*part, directions, rule, bound)
    return chosen


def _choose(
    residual: Float[Tensor, "m d"],
    share: Float[Tensor, " m"],
    atoms: Float[Tensor, "m d"],
    rule: GrowthRule,
    bound: float,
    limit: float,
    room: int,
) -> tuple[list[int], Float[Tensor, "p d"]]:
    """Choose rows of a panel until none is as bad as ``limit``; return them and the directions removed from the others.

    The shares of rows that were chosen, or repeat one that was, become 0.
    """
    chosen: list[int] = []
    directions = residual.new_empty(min(room, len(share)), residual.shape[1])
    while len(chosen) < room:
        worst = int(share.argmax())
        if float(share[worst]) < limit or float(share[worst]) <= rule.threshold:
            break
        direction = normalize(residual[worst], dim=0)
        directions[len(chosen)] = direction
        chosen.append(worst)
        component = _large(residual @ direction, share, rule, bound)
        residual -= torch.outer(component, direction)
        share -= component.square()
        share[rule.similarity(atoms @ atoms[worst]) >= DUPLICATE_COSINE] = 0
        share[worst] = 0
    return chosen, directions[: len(chosen)]


def _catch_up(
    residual: Float[Tensor, "m d"],
    share: Float[Tensor, " m"],
    directions: Float[Tensor, "p d"],
    rule: GrowthRule,
    bound: float,
) -> None:
    """Remove directions from rows as if one after another, but through the inner products of the directions."""
    gram, components = correlate(directions, directions), correlate(directions, residual)
    for new in range(len(directions)):
        components[new] -= gram[new, :new] @ components[:new]
        components[new] = _large(components[new], share, rule, bound)
        share -= components[new].square()
    with full_precision(residual.device):
        residual.addmm_(components.T, directions, alpha=-1)


def _large(
    component: Float[Tensor, " m"], share: Float[Tensor, " m"], rule: GrowthRule, bound: float
) -> Float[Tensor, " m"]:
    """Return the components that a sparse code could use, with zeros for the others."""
    component = component.clamp(min=0) if rule.nonnegative else component
    return component * (component.square() > bound * share)
