"""Sums over held-out activations from which FVU, L0 and dead atoms follow; divided once, at the end."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from itda_lightning.dictionary import Dictionary


@dataclass
class ValidationSums:
    """Running sums; see ``metrics`` for what they are for.

    Attributes:
        count: activations so far.
        sum_x: (d,) float64 sum of activations less the dictionary's bias.
        sum_squares: sum of their squared norms.
        sum_residual: sum of squared residual norms.
        sum_l0: sum of L0.
        used: (n,) which atoms were selected at least once.
    """

    count: int
    sum_x: Float[Tensor, " d"]
    sum_squares: float
    sum_residual: float
    sum_l0: int
    used: Bool[Tensor, " n"]

    @classmethod
    def empty(cls, dictionary: Dictionary) -> "ValidationSums":
        device = dictionary.bias.device
        sum_x = torch.zeros(dictionary.d_in, dtype=torch.float64, device=device)
        return cls(0, sum_x, 0.0, 0.0, 0, torch.zeros(dictionary.n_atoms, dtype=torch.bool, device=device))

    def add(self, dictionary: Dictionary, x: Float[Tensor, "batch d"]) -> None:
        """Encode a batch of finite activations and add it up. Centred, since that is where FVU loses no digits."""
        centred = dictionary.centre(x).double()
        code = dictionary.encode(x)
        self.count += len(x)
        self.sum_x += centred.sum(0)
        self.sum_squares += float(centred.square().sum())
        self.sum_residual += float(code.residual_energy.double().sum())
        self.sum_l0 += int(code.l0().sum())
        self.used[code.support[code.support >= 0]] = True

    def metrics(self) -> dict[str, float]:
        """``fvu`` = sum |x - x_hat|^2 / sum |x - mean|^2 over all activations, mean ``l0``, number of ``dead_atoms``."""
        variance = self.sum_squares - float(self.sum_x.square().sum()) / max(self.count, 1)
        return {
            "fvu": self.sum_residual / variance if variance > 0 else 0.0,
            "l0": self.sum_l0 / max(self.count, 1),
            "dead_atoms": int((~self.used).sum()),
            "validation_activations": self.count,
        }


def named_metrics(metrics: Mapping[str, float], seen: int, n_atoms: int, earlier: Mapping | None) -> dict[str, float]:
    """What is logged of a validation; the names are SAELens's where the quantity is the same.

    Args:
        metrics: as ``ValidationSums.metrics`` gives them.
        seen, n_atoms: training activations and atoms so far.
        earlier: the entry of the validation before, with its ``seen`` and ``n_atoms``.
    """
    last_seen, last_n = (earlier["seen"], earlier["n_atoms"]) if earlier is not None else (0, 0)
    rate = {"growth/validation_atoms_per_1k_activations": 1000 * (n_atoms - last_n) / max(seen - last_seen, 1)}
    return (rate if seen > last_seen else {}) | {
        "metrics/fvu": metrics["fvu"],
        "metrics/explained_variance": 1 - metrics["fvu"],
        "metrics/l0": metrics["l0"],
        "sparsity/dead_features": metrics["dead_atoms"],
    }
