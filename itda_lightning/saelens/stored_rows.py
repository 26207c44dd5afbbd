"""The unit rows that a pursuit uses, prepared from the rows that an SAE stores and kept until these change."""

from collections.abc import Iterator
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
import xxhash
from jaxtyping import Float
from torch import Tensor

from itda_lightning.errors import InputError
from itda_lightning.pursuit import PreparedAtoms

# Rows whose norm is within this number of roundings of 1 are unit rows.
ROUNDINGS = 32
PART_ENTRIES = 2**22


class StoredRows:
    """Keep what was prepared from an SAE's rows, as long as they hold the same numbers.

    Rows may be written in ways that leave no trace (``W_dec.data[3] = ...``), so every call compares a checksum of all
    of them, which takes as long as the correlations of one activation. A copy starts empty: a Gram is large.

    Attributes:
        key: the number under which ``stored_rows`` finds it.
        norms: (n,) norms of the stored rows by which they were divided, or None if they are unit as they are.
        prepared: the unit rows; they share the memory of the stored ones if ``norms`` is None.
    """

    norms: Float[Tensor, " n"] | None
    prepared: PreparedAtoms

    def __init__(self) -> None:
        self.key = next(_keys)
        self._of: tuple[Any, ...] | None = None
        _all_by_key[self.key] = self

    def __deepcopy__(self, memo: dict[int, Any]) -> "StoredRows":
        return StoredRows()

    def __reduce__(self) -> tuple[type["StoredRows"], tuple[()]]:
        return StoredRows, ()

    @torch.no_grad()
    def prepare(self, rows: Float[Tensor, "n d"], mirrored: bool = False) -> None:
        """Bring ``norms`` and ``prepared`` up to date: those of all rows, or of D if they are to be [D; -D].

        Raises InputError for rows that are not finite, or not [D; -D].
        """
        now = rows.data_ptr(), rows.dtype, rows.device, tuple(rows.shape), mirrored, checksum(rows)
        if now == self._of:
            return
        self._of = self.norms = None
        vars(self).pop("prepared", None)  # frees the old Gram before the new one is built
        rows = positive_half(rows) if mirrored else rows
        norms = norms_to_divide_by(rows)
        unit, self.norms = (rows.detach(), None) if norms is None else (_divided(rows, norms), norms)
        self.prepared = PreparedAtoms(unit, len(unit))
        if not self.prepared.compiled:
            self.prepared.build_gram()  # a Gram built later would change codes by rounding
        self._of = now


_keys = count()
_all_by_key: WeakValueDictionary[int, StoredRows] = WeakValueDictionary()


def stored_rows(key: int) -> StoredRows:
    """Return what has that key; a new, empty one if the SAE that it belonged to is gone."""
    return _all_by_key.get(key) or StoredRows()


def positive_half(rows: Float[Tensor, "n d"]) -> Float[Tensor, "half d"]:
    """Return D of the rows [D; -D]. Raises InputError if they are not."""
    half = len(rows) // 2
    if len(rows) % 2:
        raise InputError(f"the {len(rows)} rows of W_dec are not [D; -D] of a signed dictionary: export it again")
    wrong = (rows[half:] != -rows[:half]).any(1)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise InputError(
            f"the {len(rows)} rows of W_dec are not [D; -D] of a signed dictionary: row {half + row} is not the "
            f"negative of row {row}; write to both, or export the dictionary again"
        )
    return rows[:half]


def unit_rows(stored: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Return stored rows as unit rows: those of half precision are normalised again in float32.

    Rounding to half precision takes the norm of a row off 1 (by up to 0.4% in bfloat16), which least squares on the
    support would turn into wrong coefficients.
    """
    stored = stored.detach()
    norms = norms_to_divide_by(stored) if torch.finfo(stored.dtype).bits < 32 else None
    return stored if norms is None else _divided(stored, norms)


@torch.no_grad()
def norms_to_divide_by(rows: Float[Tensor, "n d"]) -> Float[Tensor, " n"] | None:
    """Return the norms (float32 or float64) by which rows become unit rows; None if all are unit up to rounding.

    1 for rows that are unit up to the rounding of at least single precision, whose bits then stay as they are, and for
    rows of zeros, which no pursuit picks. Raises InputError for rows that are not finite.
    """
    dtype = torch.promote_types(rows.dtype, torch.float32)
    norms = torch.cat([torch.linalg.vector_norm(part.double(), dim=1) for part in _parts(rows)])
    if not torch.isfinite(norms).all():
        row = int((~torch.isfinite(norms)).nonzero()[0])
        raise InputError(
            f"row {row} of W_dec has norm {float(norms[row])}, so no pursuit can use it: load the dictionary again"
        )
    are_unit = (norms - 1).abs() <= ROUNDINGS * torch.finfo(dtype).eps
    norms = torch.where(are_unit | (norms == 0), 1.0, norms)
    return None if rows.dtype == dtype and (norms == 1).all() else norms.to(dtype)


def norms_to_fold(rows: Float[Tensor, "n d"]) -> Float[Tensor, " n"] | None:
    """Return the norms as ``norms_to_divide_by``, with 1 also for rows as near to unit as their dtype allows."""
    norms = norms_to_divide_by(rows)
    if norms is None:
        return None
    # In half precision, of which each entry is rounded by half of eps at most.
    near = (norms - 1).abs() <= torch.finfo(rows.dtype).eps / 2
    return torch.where(near, 1.0, norms).to(rows.dtype)


def _divided(rows: Float[Tensor, "n d"], norms: Float[Tensor, " n"]) -> Float[Tensor, "n d"]:
    unit = torch.empty(rows.shape, dtype=norms.dtype, device=rows.device)
    for part, scale, target in zip(_parts(rows), _parts(norms[:, None], rows.shape[1]), _parts(unit), strict=True):
        target.copy_(part.double() / scale.double())
    return unit


def checksum(rows: Float[Tensor, "n d"]) -> str | int:
    """Return what differs for rows that differ in any bit."""
    bits = rows.detach().contiguous().view(torch.int16 if rows.element_size() == 2 else torch.int32)
    return xxhash.xxh3_128_hexdigest(bits.numpy().data) if bits.device.type == "cpu" else multilinear(bits)


def multilinear(bits: Tensor) -> int:
    """Return a checksum modulo 2^64 of integers (n, m) of at most 32 bits; no order of summation changes it."""
    rows, columns = _odd_numbers(len(bits), 1, bits.device), _odd_numbers(bits.shape[1], 2, bits.device)
    sums = [(part.long() * columns).sum(1) for part in _parts(bits)]
    return int((torch.cat(sums) * rows).sum()) if sums else 0


def _odd_numbers(n: int, seed: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(-(2**62), 2**62, (n,), generator=generator) * 2 + 1).to(device)


def _parts(rows: Tensor, width: int | None = None) -> Iterator[Tensor]:
    """Cut into parts of few entries, or of as many rows as something of another width."""
    yield from rows.split(max(1, PART_ENTRIES // max(1, width or rows.shape[1])))
