"""The parts of any SAELens SAE, in this package's words."""

from typing import Any

from jaxtyping import Float
from sae_lens import SAE
from torch import Tensor

from itda_lightning.saelens.architecture import ARCHITECTURE
from itda_lightning.saelens.sae_metadata import KEY


def is_of_dictionary(sae: SAE[Any]) -> bool:
    """Tell if the latents are atoms of a dictionary, in either architecture; trained atoms are not."""
    return sae.cfg.architecture() == ARCHITECTURE or KEY in sae.cfg.metadata


def decoder_rows(sae: SAE[Any]) -> Float[Tensor, "n d"]:
    """Return the directions that the latents write, as stored; only those of an ITDA surely have unit norm."""
    return sae.W_dec.detach()
