"""The atoms in bfloat16, whose products screen the atoms on machines that compute them faster."""

import timeit
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

ROUNDED_ROWS = 1024
# Without a Gram: atoms that are scored at a time.
PART = 4096
# With a Gram: multiply-adds of a product in float32 that take as long as the inner product with one atom, which lies
# anywhere, that a coarser screen cannot rule out; and further ones per dimension. Activations of language models leave
# many such atoms, sparse mixtures few.
EXAMINATION, PER_DIMENSION = 8192, 16


class CoarseAtoms:
    """Atoms rounded to bfloat16: a copy, the atoms themselves if stored so, or rounded anew for each block.

    Screens of every step use them if ``used`` (``use``, or by the machine), and the one screen before all steps with a
    Gram if ``used_with_gram``: likewise, until ``learn_examined`` gives it up.
    """

    def __init__(self, atoms: Float[Tensor, "capacity d"], use: bool | None) -> None:
        self._atoms = atoms
        self._chosen_by_machine = use is None
        self.used = self.used_with_gram = half_products_pay() if use is None else use
        self.copy: Tensor | None = atoms if self.used and atoms.dtype == torch.bfloat16 else None
        self.error = 0.0  # the largest distance between an atom and its rounding

    @property
    def copy_bytes(self) -> int:
        """The bytes of a copy, if one is needed."""
        return 2 * self._atoms.numel() if self.used and self.copy is not self._atoms else 0

    def allocate(self, n: int, budget: int, gram_fits: bool) -> None:
        """Make room for a copy of the atoms if the budget allows it, and round the first ``n``."""
        if not self.used or self.copy is not None:
            return
        if gram_fits or self.copy_bytes <= budget // 2:
            self.copy = torch.zeros_like(self._atoms, dtype=torch.bfloat16)
        elif 2 * min(PART, len(self._atoms)) * self._atoms.shape[1] > budget // 8:
            # Without a copy, atoms are rounded anew for every block, a part of them at a time.
            self.used = self.used_with_gram = False
        self.update(0, n)

    def update(self, start: int, stop: int) -> None:
        """Round the atoms ``start..stop`` again, in parts, which keeps memory low."""
        if not self.used or self.copy is self._atoms:
            return
        for low in range(start, stop, ROUNDED_ROWS):
            part = slice(low, min(stop, low + ROUNDED_ROWS))
            rounded = self._atoms[part].to(torch.bfloat16)
            if self.copy is not None:
                self.copy[part] = rounded
            error = torch.linalg.vector_norm(self._atoms[part] - rounded.float(), dim=1)
            self.error = max(self.error, float(error.max()))

    def part(self, first: int, last: int) -> Float[Tensor, "m d"]:
        """Return the atoms ``first..last`` in bfloat16."""
        return self._atoms[first:last].to(torch.bfloat16) if self.copy is None else self.copy[first:last]

    def learn_examined(self, examined: Int[Tensor, " batch"], n: int) -> None:
        """Screen in float32 from now on if that costs less, given how many of n atoms no screen could rule out."""
        if self._chosen_by_machine and self.used_with_gram:
            d = self._atoms.shape[1]
            self.used_with_gram = float(examined.double().mean()) * (EXAMINATION + PER_DIMENSION * d) <= n * d


@cache
def half_products_pay() -> bool:
    """Measure, in a few milliseconds, if this machine multiplies bfloat16 matrices faster than float32 ones."""

    def seconds(dtype: torch.dtype) -> float:
        x, atoms = torch.ones(128, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
        return min(timeit.repeat(lambda: x @ atoms.T, repeat=4, number=1))

    return seconds(torch.bfloat16) < 0.8 * seconds(torch.float32)
