"""The interface of all pursuits: their properties, and how their steps are computed.

Three modules encode by any pursuit: ``plain_torch``, over all forms of ``Correlations``; ``compiled``, on CPUs; and
``cuda``, with a Gram. The device and what ``PreparedAtoms`` keeps decide which one does.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from itda_lightning.pursuit.code import SparseCode
from itda_lightning.pursuit.correlation import Correlations
from itda_lightning.pursuit.prepared import PreparedAtoms
from itda_lightning.pursuit.problem import Problem

# Bytes of one block's correlations: on the CPU they should stay in the cache, a GPU wants thousands of activations.
# Without a Gram every step is a product with all atoms, and products of few rows are slow.
BLOCK_BYTES = {"cpu": 8 * 2**20}
BLOCK_BYTES_ELSEWHERE = 512 * 2**20
WITHOUT_GRAM = 8


class Pursuit(ABC):
    """A pursuit: a file with a subclass, and a row of ``table.PURSUITS``.

    Attributes:
        title: its name in full.
        orthogonal: whether coefficients are the least-squares ones on the support.
        takes_gram: whether it moves along rows of the Gram; else each step is a product with all atoms.
        judged_by_itself: whether its residuals decide about growth; else those of orthogonal matching pursuit do.
        shared_by_processes: whether it runs over atoms that are split over processes.
        exports_as_matching_pursuit: whether SAELens's ``matching_pursuit`` gives the same codes.
    """

    title: ClassVar[str]
    orthogonal: ClassVar[bool]
    takes_gram: ClassVar[bool] = True
    judged_by_itself: ClassVar[bool] = True
    shared_by_processes: ClassVar[bool] = True
    exports_as_matching_pursuit: ClassVar[bool] = False

    @abstractmethod
    def run(self, problem: Problem, correlations: Correlations) -> SparseCode:
        """Compute the codes in plain torch, given the correlations of the activations with the atoms."""

    def steps(self, k: int) -> list[slice]:
        """Return the columns of a code that each step fills."""
        return [slice(step, step + 1) for step in range(k)]

    def loops(self) -> Any:
        """Return the module of the compiled loops without a Gram: ``select`` and ``take``. Needs numba."""
        from itda_lightning.pursuit.kernels import single_steps

        return single_steps

    def init(self, prepared: PreparedAtoms, activations: int, k: int) -> None:
        """Count activations that are about to be encoded: once a Gram has paid for itself, one is kept."""
        if self.takes_gram:
            prepared.build_gram_if_repaid(activations * (k - 1))

    def rows_in_torch(self, prepared: PreparedAtoms, k: int) -> int:
        """Return how many activations go through plain torch at a time."""
        # Per activation: n correlations, and for least squares a k x k factor in float64.
        per_row = max(prepared.n, 2 * k * k if self.orthogonal else 1) * prepared.dtype.itemsize
        block_bytes = BLOCK_BYTES.get(prepared.rows.device.type, BLOCK_BYTES_ELSEWHERE)
        block_bytes *= 1 if prepared.gram is not None else WITHOUT_GRAM
        return max(1, min(block_bytes, prepared.budget // 8) // per_row)
