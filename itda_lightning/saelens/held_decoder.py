"""Decoders that stay near random directions in a training: what an SAE reaches without learning its latents."""

from typing import Any

import torch
from sae_lens.saes.sae import TrainingSAE
from torch.nn.functional import normalize

from itda_lightning.growth import project_on_cones


class HeldDecoder:
    """Random unit rows at which a decoder starts and near which it is held (arXiv 2602.14111).

    Args:
        sae: an SAE about to be trained; its decoder becomes the rows, its encoder their transpose.
        seed: seed of the rows.
        least_cosine: least cosine of each latent's direction with its start; 1 for a frozen decoder.
    """

    def __init__(self, sae: TrainingSAE[Any], seed: int, least_cosine: float = 1.0) -> None:
        self._decoder, self._least_cosine = sae.W_dec, least_cosine
        rows = normalize(torch.randn(sae.W_dec.shape, generator=torch.Generator().manual_seed(seed)), dim=1)
        self._rows = rows.to(sae.W_dec)
        self._decoder.data.copy_(self._rows)
        sae.W_enc.data.copy_(self._rows.T)

    def hold(self) -> None:
        """Bring the decoder back; to be called after every step of the optimiser."""
        self._decoder.data.copy_(project_on_cones(self._decoder.data, self._rows, self._least_cosine))
