"""The parts of any SAELens SAE, in this package's words."""

from typing import Any

from jaxtyping import Float
from sae_lens import SAE
from torch import Tensor

from itda_lightning.saelens.architecture import ARCHITECTURE
from itda_lightning.saelens.sae_metadata import KEY


def n_latents(sae: SAE[Any]) -> int:
    """Return the number of latents; those of an ITDA are its atoms."""
    return int(sae.cfg.d_sae)


def is_of_dictionary(sae: SAE[Any]) -> bool:
    """Tell if the latents are atoms of a dictionary, in either architecture; trained atoms are not."""
    return sae.cfg.architecture() == ARCHITECTURE or KEY in sae.cfg.metadata


def decoder_rows(sae: SAE[Any]) -> Float[Tensor, "n d"]:
    """Return the directions (n, d) that the latents write, as stored; only those of an ITDA surely have unit norm."""
    return sae.W_dec.detach()


def n_parameters(sae: SAE[Any]) -> int:
    """Count the numbers that encoding and decoding need; an ITDA's atoms, both encoder and decoder, count once."""
    return sum(parameter.numel() for parameter in sae.parameters())
