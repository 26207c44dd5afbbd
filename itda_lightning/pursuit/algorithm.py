"""The interface of all pursuits: their properties, and how their steps are computed.

``pursue`` encodes by any of them: in plain torch, over all forms of ``Correlations``; by ``compiled``, on CPUs; or by
``cuda``, with a Gram. The device and what ``PreparedAtoms`` keeps decide which.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import torch

from itda_lightning.errors import InputError
from itda_lightning.pursuit.code import SparseCode
from itda_lightning.pursuit.correlation import Best, Correlations
from itda_lightning.pursuit.prepared import PreparedAtoms
from itda_lightning.pursuit.problem import Problem

# Bytes of one block's correlations: on the CPU they should stay in the cache, a GPU wants thousands of activations.
# Without a Gram every step is a product with all atoms, and products of few rows are slow.
BLOCK_BYTES = {"cpu": 8 * 2**20}
BLOCK_BYTES_ELSEWHERE = 512 * 2**20
WITHOUT_GRAM = 8


class Pursuit(ABC):
    """A pursuit: a file with a subclass, and a row of ``table.PURSUITS``."""

    title: ClassVar[str]  # its name in full
    orthogonal: ClassVar[bool]  # whether coefficients are the least-squares ones on the support
    takes_gram: ClassVar[bool] = True  # moves along rows of the Gram; else each step is a product with all atoms
    compiled: ClassVar[bool] = True  # has loops for CPUs; else it takes no Gram and runs in plain torch
    judged_by_itself: ClassVar[bool] = True  # its residuals decide about growth; else those of ``omp`` do
    shared_by_processes: ClassVar[bool] = True  # runs over atoms that are split over processes
    atoms_leave: ClassVar[bool] = False  # an atom of an earlier step may leave the support again
    exports_as_matching_pursuit: ClassVar[bool] = False  # SAELens's ``matching_pursuit`` gives the same codes

    @abstractmethod
    def run(self, problem: Problem, correlations: Correlations) -> SparseCode:
        """Compute the codes in plain torch, given the correlations of the activations with the atoms."""

    def steps(self, k: int) -> list[slice]:
        """Return the columns of a code that each step fills."""
        return [slice(step, step + 1) for step in range(k)]

    def loops(self) -> Any:
        """Return the module whose ``take`` is the step of the compiled loops without a Gram. Needs numba."""
        from itda_lightning.pursuit.kernels import single_steps

        return single_steps

    def init(self, prepared: PreparedAtoms, activations: int, k: int) -> None:
        """Count activations that are about to be encoded: once a Gram has paid for itself, one is kept.

        Raises as ``check_budget``.
        """
        self.check_budget(prepared.budget, prepared.n, prepared.rows.shape[1], k, prepared.dtype.itemsize)
        if self.takes_gram:
            prepared.build_gram_if_repaid(activations * (k - 1))

    def bytes_in_torch(self, n: int, d: int, k: int, itemsize: int) -> int:  # noqa: ARG002  other pursuits gather atoms
        """Return the bytes that an activation takes in plain torch, the most of all ways to encode it."""
        # n correlations, and for least squares a k x k factor in float64.
        return max(n, 2 * k * k if self.orthogonal else 1) * itemsize

    def check_budget(self, budget: int, n: int, d: int, k: int, itemsize: int = 4) -> None:
        """Raise InputError for a budget in which not even one activation can be encoded."""
        needed = self.bytes_in_torch(n, d, k, itemsize)
        if budget < needed:
            raise InputError(
                f"memory_budget is {budget:,} bytes, but one activation takes {needed:,} with {n:,} atoms and k {k:,}: "
                "raise it, or lower the number of atoms or k"
            )

    def rows_in_torch(self, prepared: PreparedAtoms, k: int) -> int:
        """Return how many activations go through plain torch at a time."""
        block_bytes = BLOCK_BYTES.get(prepared.rows.device.type, BLOCK_BYTES_ELSEWHERE)
        block_bytes *= 1 if prepared.gram is not None else WITHOUT_GRAM
        per_row = self.bytes_in_torch(prepared.n, prepared.rows.shape[1], k, prepared.dtype.itemsize)
        return max(1, min(block_bytes, prepared.budget // 8) // per_row)


class OneAtATime:
    """Codes of which each step takes one atom; what runs over the steps fills in support, coefficients and energy.

    A sample ends when nothing correlates above rounding noise, or when its residual energy is on target.
    """

    def __init__(self, problem: Problem, correlations: Correlations) -> None:
        self.problem, self.correlations = problem, correlations
        self.energy, self.floor, self.target = problem.limits()
        self.active = self.energy > self.target
        self.support = torch.full((len(problem.x), problem.k), -1, dtype=torch.int64, device=problem.x.device)
        self.coefficients = torch.zeros_like(self.support, dtype=torch.float64)

    def __iter__(self) -> Iterator[tuple[int, Best]]:
        """Yield each step and its best atoms, for the samples that are ``active``, until none is."""
        for step in range(self.problem.k):
            best = self.correlations.best(self.problem.nonnegative)
            floor = self.floor.to(best.score.dtype)
            if self.problem.path is not None:
                self.problem.path.record(step, self.active, torch.maximum(best.score, floor), self.coefficients)
            self.active = self.active & (best.score > self.floor)
            if not self.active.any():
                break
            yield step, best
            self.active = self.active & (self.energy > self.target)

    def finished(self) -> SparseCode:
        """Return the codes in the precision of the activations."""
        dtype = self.problem.x.dtype
        return SparseCode(self.support, self.coefficients.to(dtype), self.energy.clamp(min=0).to(dtype))
