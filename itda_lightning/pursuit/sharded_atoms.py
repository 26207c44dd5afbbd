"""Pursuits over atoms that are split over processes: for dictionaries that one device cannot hold.

Every process has all activations and a range of the atoms. At each step it finds the best of its own atoms, the
processes exchange these, and all take the best of all (the lowest index of equal ones): the result is that of one
process.
"""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from itda_lightning.machine.memory import memory_budget
from itda_lightning.machine.processes import add_up, broadcast, gather_rows, n_ranks, rank
from itda_lightning.pursuit.code import SparseCode
from itda_lightning.pursuit.correlation import Best, GramCorrelations, ResidualCorrelations, combine, correlate, largest
from itda_lightning.pursuit.problem import Problem
from itda_lightning.pursuit.pruning import prune_chosen
from itda_lightning.pursuit.public import check_finite, check_sparsity, check_unit_rows
from itda_lightning.pursuit.table import PURSUITS, PursuitName

# Atoms that one process sends to the others at a time, while the Gram is built.
SENT_ROWS = 1024
# Activations whose atoms all processes hold at a time, to prune their codes.
PRUNED_ROWS = 256
# Indices travel with floats of the same size, as their bits.
AS_BITS = {4: torch.int32, 8: torch.int64}


class ShardedAtoms:
    """Atoms split over processes, a range each. All processes call every method, with the same activations.

    A process keeps its columns of the Gram, (n, m), if that fits the budget of every process. Then a step of a pursuit
    sends ``12 batch`` bytes per process, and a step of an orthogonal one ``4 t batch`` more in all, for the inner
    products with the t atoms before. Else a step also sends the chosen atoms, d numbers per activation. (In single
    precision.) The processes should be of one kind: they must decide alike from the same numbers.

    Args:
        mine: (m, d) unit rows, at least one; those of rank 0 are the first atoms, those of rank 1 the next, and so on.
            Half-precision atoms enter sums of single precision.
        budget: bytes that this process may keep and work in beyond them, None for half of the machine's memory.

    Attributes:
        first: the index of the first of these atoms.
        n: the number of all atoms.
        columns: (n, m) inner products of all atoms with these, or None.

    Raises:
        ValueError: rows that are not unit rows, a process without any, or with another width or dtype than the first.
    """

    def __init__(self, mine: Float[Tensor, "m d"], budget: int | None = None) -> None:
        check_unit_rows(mine)
        self.mine = mine.detach().contiguous()
        self.dtype = torch.promote_types(mine.dtype, torch.float32)
        facts = torch.tensor([*mine.shape, mine.itemsize, memory_budget(mine.device, budget)])
        counts, widths, sizes, budgets = _every(facts).T.tolist()
        if min(counts) == 0 or len(set(widths)) > 1 or len(set(sizes)) > 1:
            raise ValueError(
                f"the processes have {counts} atoms of {widths} dimensions and {sizes} bytes per number: give each at "
                "least one, and all the same width and dtype"
            )
        self.counts: list[int] = counts
        self.first, self.n, self.budget = sum(counts[: rank()]), sum(counts), min(budgets)
        self.square_norms = torch.cat([part.to(self.dtype).square().sum(1) for part in self.mine.split(SENT_ROWS)])
        self.columns: Tensor | None = None
        if self.n * max(counts) * self.dtype.itemsize <= 0.75 * self.budget:
            self.columns = torch.empty(self.n, len(mine), dtype=self.dtype, device=mine.device)
            start = 0
            for source, count in enumerate(counts):
                for low in range(0, count, SENT_ROWS):
                    rows = min(SENT_ROWS, count - low)
                    sent = self.mine[low : low + rows] if source == rank() else self.mine.new_empty(rows, widths[0])
                    part = broadcast(sent, source).to(self.dtype)
                    correlate(part, self.mine, out=self.columns[start : start + rows])
                    start += rows

    def pursue(
        self,
        pursuit: PursuitName,
        x: Float[Tensor, "batch d"],
        k: int,
        nonnegative: bool = False,
        error_threshold: float | None = None,
    ) -> SparseCode:
        """Encode as ``matching_pursuit`` and ``orthogonal_matching_pursuit`` do, in every process.

        ``residual_energy`` is not measured on the residual but follows from the coefficients, in double precision.

        Raises:
            ValueError: x of another width or with non-finite rows, k < 1, a pursuit that processes cannot share.
        """
        if x.shape[1] != self.mine.shape[1]:
            raise ValueError(f"x has {x.shape[1]} dimensions and the atoms have {self.mine.shape[1]}")
        check_sparsity(k)
        check_finite(x)
        method = PURSUITS[pursuit]
        if not method.shared_by_processes:
            raise ValueError(
                f"processes cannot share a {method.title} ({pursuit}): encode with all atoms in one process"
            )
        # As many activations at a time in all processes.
        vectors = 3 + (k if method.orthogonal and self.columns is None else 0)
        per_row = (3 * max(self.counts) + vectors * self.mine.shape[1]) * self.dtype.itemsize + 32 * k * k
        codes, rows = [], max(1, self.budget // 8 // per_row)
        for block in Problem(x.detach(), k, nonnegative, error_threshold).blocks(rows, self.dtype):
            gram = self.columns
            correlations = ShardedResidual(block.x, self) if gram is None else ShardedGram(block.x, self, gram)
            codes.append(method.run(block, correlations))
        return SparseCode.concatenate(codes)

    def part_of(self, code: SparseCode) -> Float[Tensor, "batch d"]:
        """Reconstruct from the atoms of this process alone; the sum over all processes is the reconstruction."""
        support = code.support - self.first
        return combine(support.masked_fill(support >= len(self.mine), -1).clamp(min=-1), code.coefficients, self.mine)

    def prune(self, code: SparseCode, x: Float[Tensor, "batch d"], least_gain: float, nonnegative: bool) -> SparseCode:
        """Prune codes as ``il.prune`` does; all processes get the same ones."""
        code, parts = code.distinct(), []
        for start in range(0, len(x), PRUNED_ROWS):
            block = slice(start, start + PRUNED_ROWS)
            part = SparseCode(*(values[block] for values in code))
            local = part.support - self.first
            here = (part.support >= 0) & (local >= 0) & (local < len(self.mine))
            rows = self.mine[local.clamp(0, len(self.mine) - 1)].to(self.dtype)
            chosen = add_up(rows.masked_fill(~here[:, :, None], 0.0))
            parts.append(prune_chosen(part, x[block].to(chosen.dtype), chosen, least_gain, nonnegative).code)
        return SparseCode.concatenate(parts) if parts else code


class Owners:
    """The processes that own the best atom of each activation, and how they send it to the others."""

    def __init__(self, atoms: ShardedAtoms) -> None:
        self.atoms = atoms

    def best(self, current: Float[Tensor, "batch m"], nonnegative: bool, scratch: Float[Tensor, "batch m"]) -> Best:
        """Find the best atoms of all processes from the correlations with the atoms of this one."""
        _, index, correlation = largest(current, nonnegative, scratch)
        bits = AS_BITS[current.itemsize]
        square_norm = self.atoms.square_norms[index]
        mine = torch.stack([correlation.view(bits), square_norm.view(bits), (index + self.atoms.first).to(bits)], 1)
        gathered = _every(mine)
        correlations = gathered[:, :, 0].contiguous().view(current.dtype)
        # Of equal ones the first rank's is taken, whose atoms come first.
        score, owner = (correlations if nonnegative else correlations.abs()).max(0)
        best = gathered[owner, torch.arange(len(owner), device=owner.device)]
        self.counts = torch.bincount(owner, minlength=n_ranks()).tolist()
        self.place = owner.argsort(stable=True).argsort()
        self.owned = (owner == rank()).nonzero()[:, 0]
        self.local = index[self.owned]
        correlation, square_norm = (best[:, column].contiguous().view(current.dtype) for column in (0, 1))
        return Best(best[:, 2].long(), correlation, score, square_norm)

    def send(self, mine: Shaped[Tensor, "owned ..."]) -> Shaped[Tensor, "batch ..."]:
        """Return rows for all activations, given the rows for those whose best atom this process owns."""
        return gather_rows(mine, self.counts)[self.place]


class ShardedGram(GramCorrelations):
    """The Gram form, with the columns of the Gram that belong to the atoms of this process."""

    def __init__(self, x: Float[Tensor, "batch d"], atoms: ShardedAtoms, columns: Float[Tensor, "n m"]) -> None:
        super().__init__(x, atoms.mine, columns)
        self.owners = Owners(atoms)

    def best(self, nonnegative: bool) -> Best:
        return self.owners.best(self.current, nonnegative, self.scratch)

    def inner(self, support: Int[Tensor, "batch t"], atom: Int[Tensor, " batch"]) -> Float[Tensor, "batch t"]:  # noqa: ARG002
        chosen = support[self.owners.owned].clamp(min=0)
        return self.owners.send(self.gram[chosen, self.owners.local[:, None]])


class ShardedResidual(ResidualCorrelations):
    """The residual form: every process receives the chosen atoms and keeps the residuals itself."""

    def __init__(self, x: Float[Tensor, "batch d"], atoms: ShardedAtoms) -> None:
        super().__init__(x, atoms.mine)
        self.owners = Owners(atoms)
        self.support: list[Tensor] = []  # (batch, d) the chosen atoms of every step so far

    def best(self, nonnegative: bool) -> Best:
        best = self.owners.best(self.current, nonnegative, self.scratch)
        self.chosen = self.owners.send(self.atoms[self.owners.local])
        return best

    def rows_of(self, atom: Int[Tensor, " batch"]) -> Float[Tensor, "batch d"]:  # noqa: ARG002
        return self.chosen.to(self.x.dtype)

    def replace(self, support: Int[Tensor, "batch t"], coefficients: Float[Tensor, "batch t"]) -> None:
        self.support.append(self.chosen)
        weights = coefficients.to(self.x.dtype).masked_fill(support < 0, 0.0)
        self.residual.copy_(self.x)
        for step, atom in enumerate(self.support):
            self.residual.addcmul_(atom.to(self.x.dtype), weights[:, step, None], value=-1)
        self.update()

    def inner(self, support: Int[Tensor, "batch t"], atom: Int[Tensor, " batch"]) -> Float[Tensor, "batch t"]:
        products, chosen = self.x.new_empty(support.shape), self.rows_of(atom)
        for step, earlier in enumerate(self.support):
            products[:, step] = (earlier * chosen).sum(1)
        return products


def _every(mine: Shaped[Tensor, "..."]) -> Shaped[Tensor, "ranks ..."]:
    """Gather the tensors of all processes, which have one shape."""
    return gather_rows(mine[None], [1] * n_ranks())
