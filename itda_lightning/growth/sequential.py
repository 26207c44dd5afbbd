"""Sequential growth: Algorithm 1 of arXiv 2505.17769, one activation after another, at near the cost of a batch.

A whole block is encoded at once with the dictionary at hand. Appending an atom leaves every later code as it is unless
the new atom would have won one of its steps, which its path tells without encoding again; only those are encoded anew.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.growth.rule import DUPLICATE_COSINE, Growth, GrowthRule
from itda_lightning.pursuit import Path, pursue

# A block is large enough for efficient products; outdated codes are renewed a few at a time, since the next atom may
# outdate them again.
BLOCK = 256
RENEWED = 32


def grow_sequential(
    x: Float[Tensor, "batch d"],
    atoms: Float[Tensor, "capacity d"],
    gram: Float[Tensor, "capacity capacity"] | None,
    n_atoms: int,
    rule: GrowthRule,
) -> Growth:
    """The activations that the dictionary explains too badly when each is judged after all before it were appended.

    Args:
        x: (batch, d) finite centred activations.
        atoms: (capacity, d) buffer whose first ``n_atoms`` rows are the dictionary; rows beyond are scratch.
        gram: (capacity, capacity) buffer of their inner products, or None; entries beyond are scratch.
    """
    accepted: list[int] = []
    residual_energy = x.new_zeros(len(x))
    for start in range(0, len(x), BLOCK):
        block = _Block(x[start : start + BLOCK], atoms, gram, n_atoms + len(accepted), rule)
        accepted += [start + index for index in block.grow()]
        residual_energy[start : start + BLOCK] = block.residual_energy
    chosen = torch.tensor(accepted, dtype=torch.int64, device=x.device)
    return Growth(chosen, torch.nn.functional.normalize(x[chosen], dim=1), residual_energy)


class _Block:
    """Codes of a block of activations and whether each is still the code under the dictionary as it is now."""

    def __init__(self, x: Tensor, atoms: Tensor, gram: Tensor | None, n_atoms: int, rule: GrowthRule) -> None:
        self.x, self.atoms, self.gram, self.n_atoms, self.rule = x, atoms, gram, n_atoms, rule
        self.norm = torch.linalg.vector_norm(x, dim=1)
        self.support = torch.full((len(x), rule.k), -1, dtype=torch.int64, device=x.device)
        self.path = Path.empty(x, rule.k)
        self.residual_energy = x.new_zeros(len(x))
        self.outdated = torch.ones(len(x), dtype=torch.bool, device=x.device)
        self._encode(torch.arange(len(x), device=x.device))

    def grow(self) -> list[int]:
        accepted: list[int] = []
        position = 0
        while self.n_atoms < len(self.atoms):
            failing = self.residual_energy > self.rule.threshold * self.norm.square()
            ahead = (self.outdated | failing)[position:].nonzero()
            if not len(ahead):
                break
            position += int(ahead[0])
            if self.outdated[position]:
                self._encode(self.outdated.nonzero()[:RENEWED, 0])
                continue
            if self._append(position):
                accepted.append(position)
            position += 1
            self.outdated[:position] = False
        # A full dictionary changes no more: what is outdated gets its code under it.
        self._encode(self.outdated.nonzero()[:, 0])
        return accepted

    def _encode(self, which: Tensor) -> None:
        x, path = self.x[which], Path.empty(self.x[which], self.rule.k)
        n, rule = self.n_atoms, self.rule
        gram = self.gram[:n, :n] if self.gram is not None else None
        code = pursue(rule.pursuit, x, self.atoms[:n], rule.k, rule.nonnegative, rule.threshold, gram, path)
        self.support[which], self.residual_energy[which] = code.support, code.residual_energy
        self.path.best[which], self.path.history[which] = path.best, path.history
        self.outdated[which] = False

    def _append(self, index: int) -> bool:
        """Append one activation unless it nearly repeats an atom; mark the later codes that it changes."""
        n = self.n_atoms
        atom = self.x[index] / self.norm[index]
        inner = self.atoms[:n] @ atom
        if n and float((inner if self.rule.nonnegative else inner.abs()).max()) >= DUPLICATE_COSINE:
            return False
        self.atoms[n] = atom
        if self.gram is not None:
            self.gram[n, :n] = inner
            self.gram[:n, n] = inner
            self.gram[n, n] = 1.0
        self.n_atoms += 1
        later = slice(index + 1, None)
        path = self.path.rows(later)
        if n:
            changed = path.changed_by(self.x[later] @ atom, inner, self.support[later], self.rule.nonnegative)
            self.outdated[later] |= changed
        else:
            self.outdated[later] = True
        return True
