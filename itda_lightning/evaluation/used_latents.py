"""Which latents an entry uses for activations, whatever kind of code it gives."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from sae_lens import SAE
from torch import Tensor

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.evaluation.entries import Entry
from itda_lightning.pursuit import SparseCode
from itda_lightning.saelens.anatomy import decoder_rows

# Numbers in one block of dense codes, or of the comparisons that sum re-picked atoms: 64 MB in float32.
BLOCK_NUMBERS = 2**24


class Used(NamedTuple):
    """Entries of codes that are not zero, by token and all on the CPU.

    Attributes:
        token: (entries,) int64 index of the activation, never falling.
        latent: (entries,) int64.
        activation: (entries,) float64, for an ITDA the coefficient with its sign.
    """

    token: Int[Tensor, " entries"]
    latent: Int[Tensor, " entries"]
    activation: Float[Tensor, " entries"]


def directions_of(entry: Entry) -> Float[Tensor, "n d"]:
    """(n, d) what the entry's latents write: the atoms of an ITDA, however it is stored, or an SAE's decoder rows."""
    return entry.dictionary.atoms.detach() if entry.dictionary is not None else decoder_rows(entry.sae)


def used_latents(entry: Entry, x: Float[Tensor, "batch d"], block_numbers: int = BLOCK_NUMBERS) -> Iterator[Used]:
    """Encode activations in blocks, so that the dense codes of an SAE never take more than ``block_numbers`` numbers.

    Args:
        entry: what encodes; latents are the rows of ``directions_of``, and re-picks of an atom are summed.
        x: (batch, d) activations.
        block_numbers: the size of a block.

    Yields:
        What is used in each block, one block after another; ``token`` counts within the whole of x.
    """
    if entry.dictionary is not None:
        yield from used_atoms(entry.dictionary, x, block_numbers)
        return
    rows = decoder_rows(entry.sae)
    block = max(1, block_numbers // len(rows))
    for start in range(0, len(x), block):
        yield _dense(entry.sae, x[start : start + block].to(rows.device), start)


def used_atoms(
    dictionary: Dictionary, x: Float[Tensor, "batch d"], block_numbers: int = BLOCK_NUMBERS
) -> Iterator[Used]:
    """``used_latents`` for an ITDA."""
    block = max(1, block_numbers // dictionary.k**2)
    for start in range(0, len(x), block):
        yield _sparse(dictionary.encode(x[start : start + block].to(dictionary.bias.device)), start)


def used_with_reconstructions(
    entry: Entry, x: Float[Tensor, "batch d"], block_numbers: int = BLOCK_NUMBERS
) -> Iterator[tuple[Used, Float[Tensor, "block d"]]]:
    """``used_latents``, with the reconstructions of the activations of each block in double precision, on the CPU."""
    dictionary = entry.dictionary
    width = dictionary.k**2 if dictionary is not None else len(decoder_rows(entry.sae))
    block = max(1, block_numbers // width)
    for start in range(0, len(x), block):
        if dictionary is not None:
            code = dictionary.encode(x[start : start + block].to(dictionary.bias.device))
            yield _sparse(code, start), dictionary.decode(code).double().cpu()
        else:
            part = x[start : start + block].to(decoder_rows(entry.sae).device)
            with torch.no_grad(), _flat_inputs(entry.sae):
                dense = entry.sae.encode(part)
                x_hat = entry.sae.decode(dense).double().cpu()
            yield _nonzero(dense, start), x_hat


def _sparse(code: SparseCode, start: int) -> Used:
    code = code.distinct()
    used = code.support >= 0
    token = used.nonzero()[:, 0].cpu() + start
    return Used(token, code.support[used].cpu(), code.coefficients[used].double().cpu())


def _dense(sae: SAE[Any], x: Float[Tensor, "batch d"], start: int) -> Used:
    with torch.no_grad(), _flat_inputs(sae):
        return _nonzero(sae.encode(x), start)


def _nonzero(code: Float[Tensor, "batch n"], start: int) -> Used:
    token, latent = code.nonzero(as_tuple=True)
    return Used(token.cpu() + start, latent.cpu(), code[token, latent].double().cpu())


@contextmanager
def _flat_inputs(sae: SAE[Any]) -> Iterator[None]:
    # SAEs of attention heads expect (..., heads, d_head) unless they are told that the heads come joined.
    reshaping = sae.hook_z_reshaping_mode
    sae.turn_off_forward_pass_hook_z_reshaping()
    try:
        yield
    finally:
        if reshaping:
            sae.turn_on_forward_pass_hook_z_reshaping()
