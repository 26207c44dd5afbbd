"""What any SAELens SAE is made of, in this package's words."""

from typing import Any

from jaxtyping import Float
from sae_lens import SAE
from torch import Tensor

from itda_lightning.saelens.architecture import ARCHITECTURE
from itda_lightning.saelens.provenance import KEY


def n_latents(sae: SAE[Any]) -> int:
    """The number of latents, which for an ITDA are its atoms."""
    return int(sae.cfg.d_sae)


def is_of_dictionary(sae: SAE[Any]) -> bool:
    """Whether its latents are atoms of a dictionary, in either architecture; those of a trained matching pursuit are not."""
    return sae.cfg.architecture() == ARCHITECTURE or KEY in sae.cfg.metadata


def decoder_rows(sae: SAE[Any]) -> Float[Tensor, "n d"]:
    """(n, d) the directions that latents write, one a row, as they are stored: unit norm in an ITDA only."""
    return sae.W_dec.detach()


def n_parameters(sae: SAE[Any]) -> int:
    """The numbers that encoding and decoding need: an ITDA's atoms are both its encoder and its decoder."""
    return sum(parameter.numel() for parameter in sae.parameters())
