"""Measure how strongly atoms are used: the median size of the coefficients of each, over the codes that use it."""

from collections.abc import Iterable
from pathlib import Path

import torch
import xxhash
from jaxtyping import Float
from torch import Tensor

from itda_lightning.activations.bundled import cache_directory
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.models.given_model import GivenModel
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.evaluation.reading import data_of
from itda_lightning.machine.atomic_files import write_json
from itda_lightning.machine.digests import read_signed_json
from itda_lightning.machine.made_once import hash_of

# Entries of the metadata: one number per atom, and the codes that they are of.
TYPICAL, OF_CODES = "typical_coefficients", "typical_of"


def typical_coefficient(dictionary: Dictionary, atom: int, x: Tensor | None = None) -> float:
    """Do the work of ``Dictionary.typical_coefficient``."""
    atom = dictionary.check_atom(atom)
    if x is not None:
        return float(_medians(dictionary, [x.reshape(-1, dictionary.d_in)])[atom])
    return typical_coefficients(dictionary)[atom]


def typical_coefficients(dictionary: Dictionary) -> list[float]:
    """Return the typical coefficient of every atom, kept in the metadata and, if activations are on disk, beside them.

    Raises InputError without held-out activations of the fit.
    """
    codes = codes_of(dictionary)
    if dictionary.metadata.get(OF_CODES) != codes:
        try:
            hook, data = data_of(dictionary)
            known = _kept(dictionary, data, hook, codes)
        except InputError as error:
            raise InputError(f"typical uses are measured on activations, give some as x: {error}") from error
        dictionary.metadata |= {TYPICAL: known, OF_CODES: codes}
    found: list[float] = dictionary.metadata[TYPICAL]
    return found


def _kept(dictionary: Dictionary, data: ActivationsDataModule, hook: str, codes: str) -> list[float]:
    """Read what an earlier process measured on the same activations, or measure it."""
    path: Path | None = None
    if data.stored("heldout") is not None and not isinstance(data.model_name, GivenModel):
        name = data.model_name
        identity = [codes, hook, name.name, name.revision, name.loader, name.dtype, data.rows("heldout").fingerprint()]
        path = cache_directory() / "typical" / f"{hash_of(identity)}.json"
        if path.exists():
            kept: list[float] = read_signed_json(path, "remove it, it is measured again")[TYPICAL]
            return kept
    batches = (x for x, _ in data.heldout_batches(hook, d_in=dictionary.d_in, description="Typical uses"))
    measured: list[float] = _medians(dictionary, batches).tolist()
    if path is not None:
        write_json(path, {TYPICAL: measured}, ())
    return measured


def codes_of(dictionary: Dictionary) -> str:
    """Return a hash of all that decides codes."""
    settings = dictionary.k, dictionary.pursuit, dictionary.nonnegative, dictionary.least_gain, dictionary.n_atoms
    digest = xxhash.xxh3_128(repr(settings).encode())
    for rows in (dictionary.atoms, dictionary.bias):
        digest.update(rows.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _medians(dictionary: Dictionary, batches: Iterable[Float[Tensor, "batch d"]]) -> Float[Tensor, " n"]:
    """Return the median magnitude of the coefficients of each atom, 0 for an atom that is never used."""
    atoms, sizes = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0)]
    for x in batches:
        code = dictionary.encode(x.to(dictionary.bias.device)).distinct()
        used = code.support >= 0
        atoms.append(code.support[used].cpu())
        sizes.append(code.coefficients[used].abs().float().cpu())
    atom, size = torch.cat(atoms), torch.cat(sizes)
    order = size.argsort(stable=True)
    order = order[atom[order].argsort(stable=True)]
    counts = torch.bincount(atom, minlength=dictionary.n_atoms)
    # Of an even number of uses the smaller of the two in the middle, as torch.median.
    middle = counts.cumsum(0) - counts + (counts - 1).clamp(min=0) // 2
    middle = middle.clamp(max=max(len(order) - 1, 0))
    return torch.where(counts > 0, size[order][middle], 0.0) if len(order) else torch.zeros(dictionary.n_atoms)
