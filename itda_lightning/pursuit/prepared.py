"""Atoms made ready for pursuits: the precision of computation, and what to keep between calls."""

import logging
import time
from functools import cache

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import normalize

from itda_lightning.machine.memory import memory_budget
from itda_lightning.pursuit.coarse import CoarseAtoms
from itda_lightning.pursuit.gram import as_entries, empty_gram, padded, update_gram

logger = logging.getLogger(__name__)


class PreparedAtoms:
    """A growing dictionary's atoms as the pursuits use them.

    What is kept beside the atoms depends on device, dtype and memory; the codes do not. Compiled loops on the CPU
    screen with a 16-bit Gram and, if the machine is faster at it, with the atoms in bfloat16. On CUDA devices (by
    Triton) and in plain torch, which also serves double precision, a Gram has full precision.

    Args:
        atoms: (capacity, d) the buffer of unit rows; a row changes only through ``place``. Pursuits use bfloat16 atoms
            as they are, in sums of single precision.
        n: how many of the rows are atoms.
        budget: bytes that may be kept and worked in, None for half of the machine's memory.
        compiled, half: whether to use the compiled loops and screen in bfloat16, instead of choosing by the machine.

    Attributes:
        rows: (capacity, d) the buffer, or a copy in float32 if it is float16; the first ``n`` are atoms.
        dtype, storage_dtype: the precision of computation, at least float32, and that of the given buffer.
        compiled: whether the compiled loops are used.
        coarse: the atoms in bfloat16, for screens.
        gram: (capacity, padded) inner products of the atoms, if kept.
    """

    def __init__(
        self,
        atoms: Float[Tensor, "capacity d"],
        n: int,
        budget: int | None = None,
        compiled: bool | None = None,
        half: bool | None = None,
    ) -> None:
        atoms = atoms.detach()
        self.dtype = torch.promote_types(atoms.dtype, torch.float32)
        self.storage_dtype = atoms.dtype
        # `.data`: what is written behind the atoms does not count as a change of the buffer.
        self.rows = (atoms.data.to(self.dtype) if atoms.dtype == torch.float16 else atoms.data).contiguous()
        self.n = n
        self.budget = memory_budget(atoms.device, budget)
        possible = atoms.device.type == "cpu" and self.dtype == torch.float32
        self.compiled = possible and compiled is not False and compiler_works(self.rows.dtype)
        self.gram_dtype = torch.int16 if self.compiled else self.dtype  # 16 bits: in steps of ``gram.UNIT``
        self.gram: Shaped[Tensor, "capacity padded"] | None = None
        self._spared_products = 0
        self.coarse = CoarseAtoms(self.rows, half if self.compiled else False)
        self.coarse.allocate(n, self.budget, self.gram_fits)

    @property
    def atoms(self) -> Float[Tensor, "n d"]:
        return self.rows[: self.n]

    @property
    def capacity(self) -> int:
        return len(self.rows)

    @property
    def gram_fits(self) -> bool:
        """True if the Gram of all ``capacity`` atoms, with all else that is kept, leaves a quarter of the budget."""
        gram = self.capacity * padded(self.capacity) * self.gram_dtype.itemsize
        single = self.rows.numel() * self.rows.itemsize if self.storage_dtype != self.rows.dtype else 0
        return gram + single + self.coarse.copy_bytes <= 0.75 * self.budget

    def build_gram(self) -> None:
        """Keep a Gram from now on, if it fits."""
        if self.gram is None and self.gram_fits:
            self.gram = empty_gram(self.capacity, self.gram_dtype, self.rows.device)
            update_gram(self.gram[:, : self.capacity], self._followed_by_zeros(), 0, self.n)

    def build_gram_if_repaid(self, products: int) -> None:
        """Keep a Gram once the ``products`` of an activation with all atoms that it spares outweigh its n^2 d sums.

        Codes of the compiled loops do not depend on it; those of plain torch do, within rounding.
        """
        self._spared_products += products
        if products and self._spared_products >= self.n:
            self.build_gram()

    def place(self, start: int, atoms: Float[Tensor, "m d"], inner: Float[Tensor, "m stop"] | None = None) -> None:
        """Make ``atoms`` the rows from ``start`` on, and the last; ``inner``: their products with all, if known."""
        stop = start + len(atoms)
        self.rows[start:stop] = atoms
        self.n = stop
        self.coarse.update(start, stop)
        if self.gram is None:
            return
        if inner is None:
            update_gram(self.gram[:, : self.capacity], self._followed_by_zeros(), start, stop)
        else:
            entries = as_entries(inner, self.gram.dtype)
            self.gram[start:stop, :stop] = entries
            self.gram[:start, start:stop] = entries[:, :start].T

    def as_stored(self, x: Float[Tensor, "batch d"]) -> Float[Tensor, "batch d"]:
        """Return the atoms that activations would be: unit rows, rounded as the buffer's are."""
        return normalize(x, dim=1).to(self.storage_dtype).to(self.dtype)

    def _followed_by_zeros(self) -> Tensor:
        self.rows[self.n : padded(self.n)] = 0
        return self.rows


@cache
def compiler_works(dtype: torch.dtype = torch.float32) -> bool:
    """Check that numba is there and compiles for atoms of this dtype; if not, log it: pursuits are plain torch."""
    try:
        from itda_lightning.pursuit.kernels import compile_all as kernels  # needs numba; without it torch must do

        start = time.perf_counter()
        kernels.compile_all(half=dtype == torch.bfloat16)
        if (seconds := time.perf_counter() - start) > 2:
            logger.info("compiled the pursuit loops in %.0f s; later processes find them in numba's cache", seconds)
    except Exception as error:  # a missing package, an unsupported processor, a failing LLVM
        logger.warning(
            "pursuits run in plain torch, several times slower: numba cannot compile them (%s)",
            str(error).split("\n", 1)[0],
        )
        return False
    return True
