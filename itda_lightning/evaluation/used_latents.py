"""Tell which latents an entry uses for activations, whatever kind of code it gives."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from sae_lens import SAE
from torch import Tensor

from itda_lightning.evaluation.entries import Entry
from itda_lightning.pursuit import SparseCode
from itda_lightning.saelens.anatomy import decoder_rows

# Numbers per block of dense codes, or of the comparisons that sum re-picked atoms: 64 MB in float32.
BLOCK_NUMBERS = 2**24


class Used(NamedTuple):
    """Entries of codes that are not zero, by token and all on the CPU; those of an ITDA keep their sign."""

    token: Int[Tensor, " uses"]
    latent: Int[Tensor, " uses"]
    activation: Float[Tensor, " uses"]


def directions_of(entry: Entry) -> Float[Tensor, "n d"]:
    """Return the directions that the latents write: the atoms of an ITDA, or an SAE's decoder rows."""
    return entry.dictionary.atoms.detach() if entry.dictionary is not None else decoder_rows(entry.sae)


def used_of(code: SparseCode, start: int = 0) -> Used:
    """Return the atoms that sparse codes use, re-picks summed; tokens are counted from ``start``."""
    code = code.distinct()
    used = code.support >= 0
    token = used.nonzero()[:, 0].cpu() + start
    return Used(token, code.support[used].cpu(), code.coefficients[used].double().cpu())


def used_latents(entry: Entry, x: Float[Tensor, "batch d"], block_numbers: int = BLOCK_NUMBERS) -> Iterator[Used]:
    """Encode in blocks, so that dense codes never take more than ``block_numbers`` numbers; yield the uses of each.

    Latents are the rows of ``directions_of``, re-picks of an atom are summed, tokens count within the whole of x.
    """
    yield from (used for used, _ in used_with_reconstructions(entry, x, block_numbers, decode=False))


def used_with_reconstructions(
    entry: Entry, x: Float[Tensor, "batch d"], block_numbers: int = BLOCK_NUMBERS, *, decode: bool = True
) -> Iterator[tuple[Used, Float[Tensor, "block d"]]]:
    """Encode as ``used_latents`` and decode each block in float64 on the CPU; without ``decode`` yield it unchanged."""
    dictionary, sae = entry.dictionary, entry.sae
    directions = directions_of(entry)
    block = max(1, block_numbers // (dictionary.k**2 if dictionary is not None else len(directions)))
    for start in range(0, len(x), block):
        part = x[start : start + block].to(directions.device)
        if dictionary is not None:
            code = dictionary.encode(part)
            used, x_hat = used_of(code, start), dictionary.decode(code) if decode else part
        else:
            with torch.no_grad(), _flat_inputs(sae):
                dense = sae.encode(part)
                x_hat = sae.decode(dense) if decode else part
            token, latent = dense.nonzero(as_tuple=True)
            used = Used(token.cpu() + start, latent.cpu(), dense[token, latent].double().cpu())
        yield used, x_hat.double().cpu() if decode else part


@contextmanager
def _flat_inputs(sae: SAE[Any]) -> Iterator[None]:
    # SAEs of attention heads expect (..., heads, d_head) unless reshaping is turned off.
    reshaping = sae.hook_z_reshaping_mode
    sae.turn_off_forward_pass_hook_z_reshaping()
    try:
        yield
    finally:
        if reshaping:
            sae.turn_on_forward_pass_hook_z_reshaping()
