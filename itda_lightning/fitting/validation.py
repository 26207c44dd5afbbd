"""Validation of a fit: FVU, L0 and dead atoms over all held-out activations."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.reconstruction_error import ReconstructionSums
from itda_lightning.machine.processes import gather_rows, n_ranks


class ValidationSums:
    """Accumulate the figures of a validation, whose activations the dictionary encodes."""

    def __init__(self, dictionary: Dictionary) -> None:
        self._dictionary = dictionary
        self._sums = ReconstructionSums(dictionary.d_in)
        self._used = torch.zeros(dictionary.n_atoms, dtype=torch.bool, device=dictionary.bias.device)

    def update(self, x: Float[Tensor, "batch d"]) -> None:
        """Encode a batch of finite activations and add it."""
        code = self._dictionary.encode(x)
        self._sums.update(self._dictionary.centre(x), code.residual_energy, code.l0())
        self._used[code.support[code.support >= 0]] = True

    def compute(self) -> dict[str, float]:
        """Return ``fvu``, mean ``l0``, number of ``dead_atoms`` and ``validation_activations`` of all processes.

        The processes take the batches in turn, and the figures are those of one process to the last bit.
        """
        result = self._sums.across_processes().compute()
        used = gather_rows(self._used[None], [1] * n_ranks()).any(0)
        return {
            "fvu": 0.0 if math.isnan(result.fvu) else result.fvu,
            "l0": result.l0,
            "dead_atoms": int((~used).sum()),
            "validation_activations": result.tokens,
        }


def named_metrics(metrics: Mapping[str, float], seen: int, n_atoms: int, earlier: Mapping | None) -> dict[str, float]:
    """Return what is logged of a validation and of growth since the earlier one; names are SAELens's if it has them."""
    last_seen, last_n = (earlier["seen"], earlier["n_atoms"]) if earlier is not None else (0, 0)
    rate = {"growth/validation_atoms_per_1k_activations": 1000 * (n_atoms - last_n) / max(seen - last_seen, 1)}
    return (rate if seen > last_seen else {}) | {
        "metrics/fvu": metrics["fvu"],
        "metrics/explained_variance": 1 - metrics["fvu"],
        "metrics/l0": metrics["l0"],
        "sparsity/dead_features": metrics["dead_atoms"],
    }
