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
    """Entries of codes that are not zero, by token and all on the CPU.

    Attributes:
        token: (uses,) int64 index of the activation, never falling.
        latent: (uses,) int64.
        activation: (uses,) float64, for an ITDA the coefficient with its sign.
    """

    token: Int[Tensor, " uses"]
    latent: Int[Tensor, " uses"]
    activation: Float[Tensor, " uses"]


def directions_of(entry: Entry) -> Float[Tensor, "n d"]:
    """Return the (n, d) directions that the latents write: the atoms of an ITDA, or an SAE's decoder rows."""
    return entry.dictionary.atoms.detach() if entry.dictionary is not None else decoder_rows(entry.sae)


def used_of(code: SparseCode, start: int = 0) -> Used:
    """Return the atoms that sparse codes use, re-picks summed; tokens are counted from ``start``."""
    code = code.distinct()
    used = code.support >= 0
    token = used.nonzero()[:, 0].cpu() + start
    return Used(token, code.support[used].cpu(), code.coefficients[used].double().cpu())


def used_latents(entry: Entry, x: Float[Tensor, "batch d"], block_numbers: int = BLOCK_NUMBERS) -> Iterator[Used]:
    """Encode activations in blocks, so that the dense codes of an SAE never take more than ``block_numbers`` numbers.

    Args:
        entry: encodes the activations; latents are the rows of ``directions_of``, and re-picks of an atom are summed.
        x: (batch, d) activations.
        block_numbers: the size of a block.

    Yields:
        The uses of each block; ``token`` counts within the whole of x.
    """
    yield from (used for used, _ in _encoded(entry, x, block_numbers, decode=False))


def used_with_reconstructions(
    entry: Entry, x: Float[Tensor, "batch d"], block_numbers: int = BLOCK_NUMBERS
) -> Iterator[tuple[Used, Float[Tensor, "block d"]]]:
    """Encode as ``used_latents`` and decode each block; reconstructions are float64 on the CPU."""
    yield from ((used, x_hat.double().cpu()) for used, x_hat in _encoded(entry, x, block_numbers, decode=True))


def _encoded(
    entry: Entry, x: Float[Tensor, "batch d"], block_numbers: int, decode: bool
) -> Iterator[tuple[Used, Float[Tensor, "block d"]]]:
    """Encode in blocks; without ``decode`` the activations stand in place of their reconstructions."""
    dictionary, sae = entry.dictionary, entry.sae
    width = dictionary.k**2 if dictionary is not None else len(decoder_rows(sae))
    device = dictionary.bias.device if dictionary is not None else decoder_rows(sae).device
    block = max(1, block_numbers // width)
    for start in range(0, len(x), block):
        part = x[start : start + block].to(device)
        if dictionary is not None:
            code = dictionary.encode(part)
            yield used_of(code, start), dictionary.decode(code) if decode else part
        else:
            with torch.no_grad(), _flat_inputs(sae):
                dense = sae.encode(part)
                x_hat = sae.decode(dense) if decode else part
            token, latent = dense.nonzero(as_tuple=True)
            yield Used(token.cpu() + start, latent.cpu(), dense[token, latent].double().cpu()), x_hat


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
