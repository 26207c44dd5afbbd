"""The pursuit of an SAE as an operator of torch, ``itda_lightning::pursue``.

What it does depends on the values of its arguments (they are checked, rows are prepared and kept, samples end early),
so ``torch.compile``, ``torch.export`` and ``torch.func.vmap`` cannot look inside: for them it is one step whose result
has a known shape. Its results have no derivative; ``pursuit/gradient.py`` gives the coefficients theirs.
"""

from typing import Any, cast

import torch
from torch import Tensor

from itda_lightning.pursuit import PURSUITS, PursuitName, check_finite, leave_one_out, pursue
from itda_lightning.saelens.stored_rows import stored_rows

SCHEMA = (
    "(Tensor x, Tensor rows, int key, str pursuit, int k, bool nonnegative, float least_gain, "
    "bool mirrored) -> (Tensor support, Tensor coefficients)"
)


@torch.library.custom_op("itda_lightning::pursue", mutates_args=(), schema=SCHEMA)
def pursue_stored(
    x: Tensor, rows: Tensor, key: int, pursuit: str, k: int, nonnegative: bool, least_gain: float, mirrored: bool
) -> tuple[Tensor, Tensor]:
    """Encode centred activations by rows of any norm; the coefficients are those of the rows as they are.

    Args:
        x: (batch, d) activations of any floating dtype.
        rows: (n, d) of any floating dtype.
        key: that of the ``StoredRows`` that keep what is prepared from the rows.
        pursuit, k, nonnegative, least_gain: as in ``Dictionary``.
        mirrored: the rows are [D; -D], and the codes are those of D.

    Returns:
        support (batch, k) int64 and coefficients (batch, k) in at least single precision, as in ``SparseCode``.

    Raises:
        ValueError: x that is not finite.
        InputError: rows that are not finite, or not [D; -D].
    """
    name = cast(PursuitName, pursuit)
    check_finite(x)
    stored = stored_rows(key)
    # Autocast would round the correlations that decide the picks.
    with torch.autocast(x.device.type, enabled=False):
        stored.prepare(rows, mirrored)
        prepared = stored.prepared
        PURSUITS[name].init(prepared, len(x), k)
        code = pursue(name, x, prepared, k, nonnegative)
        if least_gain > 0:
            code = leave_one_out(code, x.to(prepared.dtype), prepared, least_gain, nonnegative).code
        coefficients = code.coefficients
        if stored.norms is not None:
            coefficients = coefficients / stored.norms[code.support.clamp(min=0)]
    return code.support, coefficients


@pursue_stored.register_fake
def _(x: Tensor, rows: Tensor, key: int, pursuit: str, k: int, *settings: Any) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    dtype = torch.promote_types(rows.dtype, torch.float32)
    return x.new_empty((x.shape[0], k), dtype=torch.int64), x.new_empty((x.shape[0], k), dtype=dtype)


@pursue_stored.register_vmap
def _(info, in_dims, x, rows, *settings):  # type: ignore[no-untyped-def]
    """Encode a batch of batches at once; a batch of dictionaries one after another."""
    of_x, of_rows = in_dims[:2]
    if of_rows is None:
        x = x.movedim(of_x, 0)
        codes = pursue_stored(x.flatten(0, 1), rows, *settings)
        return tuple(part.unflatten(0, x.shape[:2]) for part in codes), (0, 0)
    pairs = [
        pursue_stored(x if of_x is None else x.select(of_x, i), rows.select(of_rows, i), *settings)
        for i in range(info.batch_size)
    ]
    return tuple(torch.stack(parts) for parts in zip(*pairs, strict=True)), (0, 0)
