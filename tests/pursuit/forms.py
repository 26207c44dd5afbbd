"""The forms that a pursuit can take, by name; all must give the same codes."""

import pytest
import torch
from torch import Tensor

from itda_lightning.pursuit import PreparedAtoms
from tests.pursuit.cases import Case

# Compiled loops with and without a Gram, screening in bfloat16 or in float32; plain torch with and without a Gram.
COMPILED = ("gram, half", "gram, single", "no gram, half", "no gram, single")
FORMS = (*COMPILED, "torch gram", "torch residual")
# Generalised pursuit takes no Gram, and pruning depends on the loops alone: of these forms no two run the same code.
GOMP_FORMS = ("no gram, half", "no gram, single", "torch residual")
PRUNING_FORMS = ("gram, half", "torch gram")
# Double precision is always computed in plain torch, so only single precision shows the compiled loops.
DTYPES = {form: torch.float32 if form in COMPILED else torch.float64 for form in FORMS}
forms = pytest.mark.parametrize("form", FORMS)


def of_form(case: Case, form: str) -> Case:
    """Return the case in the precision of the form."""
    return Case(case.x.to(DTYPES[form]), case.atoms.to(DTYPES[form]), case.k)


def prepare(atoms: Tensor, form: str, spare: int = 0) -> PreparedAtoms:
    """Prepare atoms in that form, before ``spare`` rows of rubbish, whose inner products are kept as well."""
    prepared = with_room(torch.cat([atoms, atoms.new_full((spare, atoms.shape[1]), 0.7)]), len(atoms) + spare, form)
    prepared.n = len(atoms)
    return prepared


def with_room(atoms: Tensor, capacity: int, form: str) -> PreparedAtoms:
    """Prepare atoms in that form at the start of a buffer of ``capacity`` rows."""
    room = torch.cat([atoms, atoms.new_zeros(capacity - len(atoms), atoms.shape[1])])
    prepared = PreparedAtoms(room, len(atoms), compiled=form in COMPILED, half=form.endswith("half"))
    if form in ("gram, half", "gram, single", "torch gram"):
        prepared.build_gram()
        assert prepared.gram is not None
    assert prepared.compiled == (form in COMPILED)
    assert prepared.coarse.used == form.endswith("half")
    return prepared
