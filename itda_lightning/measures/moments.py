"""Second moments of several representations of the same tokens, summed over batches in float64.

Linear measures need nothing else of millions of tokens, which are read one block at a time. Sums are kept about the
running mean and shifted when it moves (Chan, Golub, LeVeque 1983), so a large common offset of all tokens costs no
digits, as it would if the product of the means were subtracted at the end.
"""

import copy
import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from itda_lightning.errors import InputError
from itda_lightning.measures.aligned import blocks, check_aligned

# A column that varies by less than this share of its mean is constant: it varies by the rounding of the mean.
CONSTANT = 1e-12
# Squares of smaller variances underflow.
SMALLEST_VARIANCE = 1e-140


Pair = tuple[int, int]


class CrossMoments(NamedTuple):
    """Sums over n tokens of two representations x (n, d1) and y (n, d2), each about its mean; float64.

    Attributes:
        n: number of tokens.
        xx, yy, xy: ``x'x`` (d1, d1), ``y'y`` (d2, d2), ``x'y`` (d1, d2).
        norms_xx, norms_yy, norms_xy: sums of ``|x|^4``, ``|y|^4`` and ``|x|^2 |y|^2``: the diagonals of the n x n
            kernels, which debiased CKA leaves out.
    """

    n: int
    xx: Float[Tensor, "d1 d1"]
    yy: Float[Tensor, "d2 d2"]
    xy: Float[Tensor, "d1 d2"]
    norms_xx: float
    norms_yy: float
    norms_xy: float

    @classmethod
    def of(cls, x: Float[Tensor, "n d1"], y: Float[Tensor, "m d2"]) -> "CrossMoments":
        """Return the moments of two tensors. Raises InputError as ``Moments.update`` and ``Moments.compute``."""
        moments = Moments()
        moments.update(x, y)
        return moments.compute()

    @property
    def swapped(self) -> "CrossMoments":
        """The moments with x and y exchanged."""
        return CrossMoments(self.n, self.yy, self.xx, self.xy.T, self.norms_yy, self.norms_xx, self.norms_xy)


class Moments:
    """Running sums of m representations of the same tokens, from which the ``CrossMoments`` of any pair are read.

    Holds d_i^2 float64 per representation and d_i d_j per pair, and some vectors, on the device of the first batch.

    Attributes:
        n: tokens so far.

    Example:
        >>> import torch
        >>> from itda_lightning.measures import Moments, cka, cka_of
        >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 2.0]]), torch.tensor([[1.0], [2.0], [4.0]])
        >>> moments = Moments()
        >>> for batch in zip(x.split(2), y.split(2)):
        ...     moments.update(*batch)
        >>> round(cka_of(moments.compute()) - cka(x, y), 12)
        0.0
    """

    def __init__(self, pairs: Iterable[Pair] | None = None) -> None:
        """``pairs``: pairs of representations to be compared, by their order in ``update``; all by default."""
        self.n = 0
        self._pairs = None if pairs is None else {(min(pair), max(pair)) for pair in pairs}
        self._means: list[Tensor] = []
        self._products: dict[Pair, Tensor] = {}
        # Sums of |x_i|^2 x_j: needed only to move the sums of |x_i|^2 |x_j|^2 to another mean.
        self._thirds: dict[Pair, Tensor] = {}
        self._norms: dict[Pair, Tensor] = {}

    def update(self, *representations: Float[Tensor, "..."]) -> None:
        """Add a batch: (batch, d_i) of each representation, in the same order every time; any float dtype.

        Raises:
            InputError: as ``check_aligned``; another number of representations than before. Nothing is added then.
        """
        if len(representations) < 2 or (self._means and len(representations) != len(self._means)):
            count = f"{len(self._means)}, as before" if self._means else "at least 2"
            raise InputError(f"got {len(representations)} representations to compare: give {count}")
        check_aligned(representations, [len(mean) for mean in self._means] if self._means else None)
        if not self._means:
            self._start(representations)
        for block in blocks(*representations):
            rows, before = len(block[0]), self._means
            self._means = [
                mean + (x.mean(0) - mean) * (rows / (self.n + rows)) for mean, x in zip(before, block, strict=True)
            ]
            self._shift([old - new for old, new in zip(before, self._means, strict=True)])
            self.n += rows
            centred = [x - mean for x, mean in zip(block, self._means, strict=True)]
            squares = [x.square().sum(1) for x in centred]
            for (i, j), product in self._products.items():
                product.addmm_(centred[i].T, centred[j])
                self._norms[i, j] += squares[i] @ squares[j]
            for (i, j), third in self._thirds.items():
                third += squares[i] @ centred[j]

    @classmethod
    def combined(cls, parts: Sequence["Moments"], times: Sequence[int]) -> "Moments":
        """Return the moments of the tokens of all parts, each part counted ``times`` times; parts stay as they are.

        Raises InputError for parts of different representations or pairs.
        """
        result = cls()
        result._pairs = parts[0]._pairs
        used = [(part, count) for part, count in zip(parts, times, strict=True) if part.n and count]
        for part in parts:
            widths, others = ([len(mean) for mean in one._means] for one in (used[0][0] if used else part, part))
            if part._pairs != result._pairs or (part.n and others != widths):
                raise InputError(
                    f"moments of widths {others} and pairs {part._pairs} cannot be added to those of widths {widths} "
                    f"and pairs {result._pairs}: combine those of the same representations"
                )
        if not used:
            return result
        result.n = sum(count * part.n for part, count in used)
        shares = [count * part.n / result.n for part, count in used]
        result._means = [
            torch.stack([mean * share for mean, share in zip(means, shares, strict=True)]).sum(0)
            for means in zip(*(part._means for part, _ in used), strict=True)
        ]
        for part, count in used:
            moved = copy.deepcopy(part)
            moved._shift([old - new for old, new in zip(part._means, result._means, strict=True)])
            for name in ("_products", "_thirds", "_norms"):
                sums = getattr(result, name)
                for key, value in getattr(moved, name).items():
                    sums[key] = sums[key].add_(value, alpha=count) if key in sums else value * count
        return result

    def compute(self, first: int = 0, second: int = 1) -> CrossMoments:
        """Return the moments of two of the representations, as x and y.

        Dimensions with the same value for every token are exactly 0. The result may share memory with the sums. Raises
        InputError for fewer than two tokens, a pair that was not summed, or a representation without variance.
        """
        if self.n < 2:
            raise InputError(f"{self.n} tokens are too few: give at least 2")
        key = min(first, second), max(first, second)
        if key not in self._products:
            raise InputError(f"representations {first} and {second} are not among the pairs that were summed")
        left, right = self._varying(first, "x"), self._varying(second, "y")
        return CrossMoments(
            self.n,
            _only(self._products[first, first], left, left),
            _only(self._products[second, second], right, right),
            _only(self._product(first, second), left, right),
            *(float(self._norms[pair]) for pair in ((first, first), (second, second), key)),
        )

    def _varying(self, index: int, name: str) -> Bool[Tensor, " d"]:
        """Return which dimensions of a representation vary. Raises InputError if none does."""
        variance = self._products[index, index].diagonal() / self.n
        varying = variance > (CONSTANT * self._means[index]).square().clamp(min=SMALLEST_VARIANCE)
        if not bool(varying.any()):
            raise InputError(f"{name} is the same for every token: it has no variance to compare")
        return varying

    def _product(self, i: int, j: int) -> Float[Tensor, "d1 d2"]:
        return self._products[i, j] if i <= j else self._products[j, i].T

    def _start(self, representations: tuple[Tensor, ...]) -> None:
        """Set all sums to zero."""
        self._means = [x.new_zeros(x.shape[1], dtype=torch.float64) for x in representations]
        for i, j in itertools.combinations_with_replacement(range(len(representations)), 2):
            if i == j or self._pairs is None or (i, j) in self._pairs:
                self._products[i, j] = torch.outer(self._means[i], self._means[j])
                self._norms[i, j] = self._means[i].new_zeros(())
                self._thirds |= {(a, b): torch.zeros_like(self._means[b]) for a, b in ((i, j), (j, i))}

    def _shift(self, by: list[Tensor]) -> None:
        """Turn sums of powers of x into those of x + by; higher powers first, as they need the lower ones."""
        lengths = [step.square().sum() for step in by]
        traces = [self._products[i, i].trace() for i in range(len(by))]
        for (i, j), norms in self._norms.items():
            norms += 2 * (by[j] @ self._thirds[i, j] + by[i] @ self._thirds[j, i])
            norms += 4 * (by[i] @ self._products[i, j] @ by[j])
            norms += lengths[j] * traces[i] + lengths[i] * traces[j] + self.n * lengths[i] * lengths[j]
        for (i, j), third in self._thirds.items():
            third += by[j] * traces[i] + 2 * (by[i] @ self._product(i, j)) + self.n * lengths[i] * by[j]
        for (i, j), product in self._products.items():
            product.addr_(by[i], by[j], alpha=self.n)


def _only(product: Float[Tensor, "d1 d2"], rows: Bool[Tensor, " d1"], columns: Bool[Tensor, " d2"]) -> Tensor:
    """Return the product with all other rows and columns set to zero."""
    return product if bool(rows.all() & columns.all()) else product * rows[:, None] * columns
