"""Atoms made ready for pursuits: the precision to compute in, and what is worth keeping between calls."""

import logging
import time
from functools import cache
from importlib.util import find_spec

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from itda_lightning.machine.memory import memory_budget
from itda_lightning.pursuit.gram import as_entries, padded, update_gram

logger = logging.getLogger(__name__)

ROUNDED_ROWS = 1024
# Without a Gram: atoms that are scored at a time.
PART = 4096
# With a Gram: multiply-adds of a product in float32 that take as long as looking at an atom which a coarser screen cannot
# rule out. Activations of language models leave many such atoms, sparse mixtures few.
EXAMINATION = 128


class PreparedAtoms:
    """A growing dictionary's atoms as the pursuits use them.

    What is kept beside the atoms depends on device, dtype and memory, never the codes: compiled loops on the CPU screen
    with a 16-bit Gram and, where the machine is faster at it, a bfloat16 copy of the atoms; on CUDA devices (by Triton) and in
    plain torch, which is also for double precision, a Gram has full precision.

    Args:
        atoms: (capacity, d) the buffer of unit rows; a row changes only through ``place``. In bfloat16 they are computed
            with as they are, in sums of single precision.
        n: how many of the rows are atoms.
        budget: bytes that may be kept and worked in, None for half of the machine's memory.
        compiled, half: whether to use the compiled loops and screen in bfloat16, instead of choosing by the machine.

    Attributes:
        rows: (capacity, d) the buffer, or a copy in float32 where it is of float16.
        n: the number of atoms.
        compiled: whether the compiled loops are used.
        half: whether atoms are screened in bfloat16, where that is done at every step.
        half_with_gram: whether they are where one screen serves all steps: as ``half``, until ``learn_examined`` finds that
            it does not pay.
        coarse: (capacity, d) the atoms in bfloat16, where such a copy is kept or they are stored so.
        coarse_error: the largest distance between an atom and its rounding to bfloat16.
        budget: bytes.
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
        self.gram: Shaped[Tensor, "capacity padded"] | None = None
        self.half = self.compiled and (half_products_pay() if half is None else half)
        self.half_with_gram, self._half_is_chosen = self.half, half is None
        stored_coarse = self.half and self.rows.dtype == torch.bfloat16
        self.coarse: Tensor | None = self.rows if stored_coarse else None
        self.coarse_error = 0.0
        self._without_gram = 0
        copy, part = 2 * self.rows.numel(), 2 * min(PART, self.capacity) * self.d_in
        if stored_coarse:
            return
        if self.half and (self.gram_fits or copy <= self.budget // 8):
            self.coarse = torch.zeros_like(self.rows, dtype=torch.bfloat16)
        elif part > self.budget // 8:
            # Without a copy, atoms are rounded anew for every block, a part of them at a time.
            self.half = self.half_with_gram = False
        self._round_to_coarse(0, n)

    @property
    def atoms(self) -> Float[Tensor, "n d"]:
        return self.rows[: self.n]

    @property
    def capacity(self) -> int:
        return len(self.rows)

    @property
    def d_in(self) -> int:
        return self.rows.shape[1]

    @property
    def gram_dtype(self) -> torch.dtype:
        """The dtype in which a Gram is kept: 16-bit integers in steps of ``gram.UNIT`` for the compiled loops."""
        return torch.int16 if self.compiled else self.dtype

    @property
    def gram_fits(self) -> bool:
        """Whether the Gram of all ``capacity`` atoms, with what is kept already, leaves a quarter of the budget to work in."""
        gram = self.capacity * padded(self.capacity) * self.gram_dtype.itemsize
        single = self.rows.numel() * self.rows.itemsize if self.storage_dtype != self.rows.dtype else 0
        coarse = 2 * self.rows.numel() if self.half and self.rows.dtype != torch.bfloat16 else 0
        return gram + single + coarse <= 0.75 * self.budget

    def build_gram(self) -> None:
        """Keep a Gram from now on, if it fits."""
        if self.gram is None and self.gram_fits:
            # Rows of a round length: a corner of it can be used as it lies in memory.
            self.gram = torch.zeros(
                self.capacity, padded(self.capacity), dtype=self.gram_dtype, device=self.rows.device
            )
            update_gram(self.gram[:, : self.capacity], self._followed_by_zeros(), 0, self.n)

    def build_gram_if_repaid(self, pursuit: str, activations: int, k: int) -> None:
        """Keep a Gram once as many activations were encoded without as its n^2 d multiply-adds would have paid for.

        Codes of the compiled loops do not depend on it; those of plain torch do, within rounding. The generalised pursuit
        uses none.
        """
        if pursuit == "gomp":
            return
        self._without_gram += activations * (k - 1)
        if k > 1 and self._without_gram >= self.n:
            self.build_gram()

    def learn_examined(self, examined: Int[Tensor, " batch"]) -> None:
        """Screen in float32 from now on where that costs less; codes do not depend on it.

        Args:
            examined: (batch,) how many atoms each activation has looked at, over all steps, as no screen could rule them out.
        """
        if self._half_is_chosen and float(examined.double().mean()) * EXAMINATION > self.n * self.d_in:
            self.half_with_gram = False

    def place(self, start: int, atoms: Float[Tensor, "m d"], inner: Float[Tensor, "m stop"] | None = None) -> None:
        """Make ``atoms`` the rows from ``start`` on and the last of the dictionary.

        Args:
            inner: their inner products with the ``start`` atoms before them and with one another, if known.
        """
        stop = start + len(atoms)
        self.rows[start:stop] = atoms
        self.n = stop
        self._round_to_coarse(start, stop)
        if self.gram is None:
            return
        if inner is None:
            update_gram(self.gram[:, : self.capacity], self._followed_by_zeros(), start, stop)
        else:
            entries = as_entries(inner, self.gram.dtype)
            self.gram[start:stop, :stop] = entries
            self.gram[:start, start:stop] = entries[:, :start].T

    def in_half(self, first: int, last: int) -> Float[Tensor, "m d"]:
        """The atoms ``first..last`` in bfloat16."""
        return self.rows[first:last].to(torch.bfloat16) if self.coarse is None else self.coarse[first:last]

    def _followed_by_zeros(self) -> Tensor:
        self.rows[self.n : padded(self.n)] = 0
        return self.rows

    def _round_to_coarse(self, start: int, stop: int) -> None:
        """Bring the bound of the error of rounding to bfloat16, and the copy, up to date; in parts, which keeps memory low."""
        if not self.half or self.coarse is self.rows:
            return
        for low in range(start, stop, ROUNDED_ROWS):
            part = slice(low, min(stop, low + ROUNDED_ROWS))
            rounded = self.rows[part].to(torch.bfloat16)
            if self.coarse is not None:
                self.coarse[part] = rounded
            error = torch.linalg.vector_norm(self.rows[part] - rounded.float(), dim=1)
            self.coarse_error = max(self.coarse_error, float(error.max()))


@cache
def compiler_works(dtype: torch.dtype = torch.float32) -> bool:
    """Whether numba is there and can compile for atoms of this dtype; else, said in the log, pursuits are plain torch."""
    try:
        from itda_lightning.pursuit.kernels import (
            pursuits as kernels,  # numba is imported where it is used: without it torch must do
        )

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


def triton_works(device: torch.device) -> bool:
    """Whether pursuits on this device can use the Triton kernel: a CUDA device on which it was seen to be right."""
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    from itda_lightning.pursuit import cuda  # imports triton, which comes with torch for CUDA only

    return cuda.works_on(device)


@cache
def half_products_pay() -> bool:
    """Whether this machine multiplies bfloat16 matrices faster than float32 ones; measured, in a few milliseconds."""
    x, atoms = torch.ones(128, 1024), torch.ones(1024, 1024)
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        left, right = x.to(dtype), atoms.to(dtype)
        left @ right.T
        times = []
        for _ in range(3):
            start = time.perf_counter()
            left @ right.T
            times.append(time.perf_counter() - start)
        seconds[dtype] = min(times)
    return seconds[torch.bfloat16] < 0.8 * seconds[torch.float32]
