"""Sequential growth: Algorithm 1 of arXiv 2505.17769, one activation after another, at the cost of a batch.

The compiled loops do just that. Elsewhere a block is grown by assuming which rows are accepted and correcting that.
Every activation is encoded with the dictionary plus those assumed before it, and so gets a decision of its own. If the
decisions differ from the assumption, they become the next assumption, and the codes that this changes are computed
anew: those that use an atom that is gone, and those in which a new atom would have won a step, which a path shows
without encoding. The decisions up to the first wrong assumption are right, so each round settles at least one more and
the last one all, exactly as if each had waited for those before it.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from itda_lightning.growth.rule import DUPLICATE_COSINE, Growth, GrowthRule
from itda_lightning.pursuit import PURSUITS, Path, PreparedAtoms, correlate, pursue
from itda_lightning.pursuit.problem import Problem

# A larger block makes larger products but assumes more, and wrongly more often. A young dictionary changes with every
# atom, so its blocks are small.
LARGEST_BLOCK = 256
SMALLEST_BLOCK = 64


def grow_sequential(x: Float[Tensor, "batch d"], prepared: PreparedAtoms, rule: GrowthRule) -> Growth:
    """Return the activations that the dictionary explains too badly, each judged after those before it were appended.

    Rows of ``prepared`` beyond its atoms are scratch.
    """
    n_atoms = prepared.n
    if prepared.compiled and prepared.gram is not None:
        from itda_lightning.pursuit.compiled import pursue_and_append  # needs numba, which is there then

        problem = Problem(x.to(prepared.dtype), rule.k, rule.nonnegative)
        target = rule.threshold * rule.reference(x.double())
        appended, energy = pursue_and_append(
            PURSUITS[rule.pursuit], problem, prepared, prepared.as_stored(x), target, DUPLICATE_COSINE
        )
    else:
        appended, energy = torch.zeros(len(x), dtype=torch.bool, device=x.device), x.new_zeros(len(x))
        start = 0
        while start < len(x):
            rows = slice(start, start + min(max(prepared.n // 4, SMALLEST_BLOCK), LARGEST_BLOCK))
            block = _Block(x[rows], prepared, rule)
            appended[rows] = block.grow()
            energy[rows] = block.residual_energy
            start = rows.stop
    prepared.n = n_atoms
    accepted = appended.nonzero()[:, 0]
    return Growth(accepted, normalize(x[accepted], dim=1), energy.to(x.dtype))


class _Block:
    """Codes of a block of activations under an assumption of which become atoms.

    Supports index the dictionary's ``n`` atoms as they are, and the atom of the block's row ``i`` as ``n + i``,
    whatever else is assumed.
    """

    def __init__(self, x: Tensor, prepared: PreparedAtoms, rule: GrowthRule) -> None:
        self.x, self.prepared, self.n, self.rule = x.to(prepared.dtype), prepared, prepared.n, rule
        self.limit, self.shares = rule.threshold * rule.reference(self.x), rule.shares(self.x)
        self.unit, self.rows = prepared.as_stored(x), torch.arange(len(x), device=x.device)
        self.assumed = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        # Inner products with the dictionary's atoms and the block's rows; of those that were ever assumed.
        self.inner = self.x.new_empty(len(x), self.n + len(x))
        self.has_inner = torch.zeros_like(self.assumed)
        self.support = torch.full((len(x), rule.k), -1, dtype=torch.int64, device=x.device)
        self.path = Path.empty(self.x, rule.k)
        self.residual_energy = self.x.new_zeros(len(x))

    def grow(self) -> Bool[Tensor, " batch"]:
        """Return which rows are accepted; their atoms are in the buffers then."""
        self._encode(self.rows)
        while True:
            decided = self._decide()
            gone, new = self.assumed & ~decided, decided & ~self.assumed
            if not bool((gone | new).any()):
                return decided
            named = torch.cat([gone.new_zeros(self.n), gone])
            outdated = (named[self.support.clamp(min=0)] & (self.support >= 0)).any(1) | self._would_use(new)
            self.assumed = decided
            members = decided.nonzero()[:, 0]
            inner = self.inner[members]
            inner = torch.cat([inner[:, : self.n], inner[:, self.n + members]], 1)
            self.prepared.place(self.n, self.unit[members], inner)  # behind the dictionary
            self._encode(outdated.nonzero()[:, 0])

    def _decide(self) -> Bool[Tensor, " batch"]:
        """Find the rows that their codes reject, but for repeats of an atom and those that no longer fit."""
        rejected = (self.residual_energy > self.limit).nonzero()[:, 0]
        fresh = rejected[~self.has_inner[rejected]]
        self.inner[fresh, : self.n] = correlate(self.unit[fresh], self.prepared.rows[: self.n])
        self.inner[fresh, self.n :] = self.unit[fresh] @ self.unit.T
        self.has_inner[fresh] = True

        cosine = self.inner[rejected] if self.rule.nonnegative else self.inner[rejected].abs()
        members = self.assumed.nonzero()[:, 0]
        repeats = (cosine[:, : self.n] >= DUPLICATE_COSINE).any(1)
        repeats |= ((cosine[:, self.n + members] >= DUPLICATE_COSINE) & (members < rejected[:, None])).any(1)
        decided = torch.zeros_like(self.assumed)
        decided[rejected[~repeats][: self.prepared.capacity - self.n]] = True
        return decided

    def _would_use(self, new: Bool[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
        """Find the rows after one of the atoms that would have taken it at some step."""
        candidates = new.nonzero()[:, 0]
        correlation = self.x @ self.unit[candidates].T
        won = self.path.changed_by(correlation, self.inner[candidates], self.support, self.rule.nonnegative)
        return (won & (candidates < self.rows[:, None])).any(1)

    def _encode(self, rows: Int[Tensor, " m"]) -> None:
        members = self.assumed.nonzero()[:, 0]
        x, rule = self.x[rows], self.rule
        path = Path.empty(x, rule.k)
        visible = self.n + (members < rows[:, None]).sum(1)
        shares = self.shares if isinstance(self.shares, float) else self.shares[rows]
        code = pursue(rule.pursuit, x, self.prepared, rule.k, rule.nonnegative, shares, path, visible)
        names = torch.cat([torch.arange(self.n, device=x.device), self.n + members])
        self.support[rows] = torch.where(code.support >= 0, names[code.support.clamp(min=0)], -1) if len(names) else -1
        self.residual_energy[rows] = code.residual_energy
        self.path.best[rows], self.path.history[rows] = path.best, path.history
