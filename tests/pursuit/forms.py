"""The forms that a pursuit can take, by name; the same codes are asked of all of them."""

import pytest
import torch
from torch import Tensor

from itda_lightning.pursuit import PreparedAtoms

# Compiled loops with and without a Gram, screening in bfloat16 or in float32; plain torch with and without a Gram.
FORMS = ("gram, half", "gram, single", "no gram, half", "no gram, single", "torch gram", "torch residual")
forms = pytest.mark.parametrize("form", FORMS)


def prepare(atoms: Tensor, form: str, spare: int = 0) -> PreparedAtoms:
    """Prepared atoms of that form, in a buffer with ``spare`` rows of rubbish behind them, whose inner products are kept.

    Atoms in double precision are always computed in plain torch.
    """
    prepared = with_room(torch.cat([atoms, atoms.new_full((spare, atoms.shape[1]), 0.7)]), len(atoms) + spare, form)
    prepared.n = len(atoms)
    return prepared


def with_room(atoms: Tensor, capacity: int, form: str) -> PreparedAtoms:
    """Prepared atoms of that form at the start of a buffer of ``capacity`` rows."""
    room = torch.cat([atoms, atoms.new_zeros(capacity - len(atoms), atoms.shape[1])])
    prepared = PreparedAtoms(room, len(atoms), compiled=not form.startswith("torch"), half=form.endswith("half"))
    if form in ("gram, half", "gram, single", "torch gram"):
        prepared.build_gram()
        assert prepared.gram is not None
    if prepared.dtype == torch.float32:
        assert prepared.compiled == (not form.startswith("torch"))
        assert prepared.half == form.endswith("half")
    return prepared
