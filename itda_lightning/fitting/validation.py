"""Sums over held-out activations from which FVU, L0 and dead atoms follow; divided once, at the end."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.machine.processes import gather_rows, n_ranks

# Sums that stand before the sum of activations.
OTHER_SUMS = 4


@dataclass
class ValidationSums:
    """Sums of batches; see ``metrics`` for what they are for.

    Attributes:
        d_in: width of the activations.
        batches: of every batch (4 + d,) float64: the number of activations, sum of their squared norms, of squared residual
            norms, of L0, and (d,) sum of activations; all less the dictionary's bias.
        used: (n,) which atoms were selected at least once.
    """

    d_in: int
    batches: list[Float[Tensor, " sums"]]
    used: Bool[Tensor, " n"]

    @classmethod
    def empty(cls, dictionary: Dictionary) -> "ValidationSums":
        return cls(
            dictionary.d_in, [], torch.zeros(dictionary.n_atoms, dtype=torch.bool, device=dictionary.bias.device)
        )

    def add(self, dictionary: Dictionary, x: Float[Tensor, "batch d"]) -> None:
        """Encode a batch of finite activations and add it up. Centred, since that is where FVU loses no digits."""
        centred = dictionary.centre(x).double()
        code = dictionary.encode(x)
        sums = (len(x), centred.square().sum(), code.residual_energy.double().sum(), code.l0().sum())
        others = torch.tensor([float(value) for value in sums], dtype=torch.float64)
        self.batches.append(torch.cat([others, centred.sum(0).cpu()]))
        self.used[code.support[code.support >= 0]] = True

    def of_all_ranks(self) -> "ValidationSums":
        """The sums of all processes, which took the batches in turn, in the order of one process."""
        counts = gather_rows(torch.tensor([len(self.batches)]), [1] * n_ranks()).tolist()
        mine = torch.stack([torch.zeros(OTHER_SUMS + self.d_in, dtype=torch.float64), *self.batches])[1:]
        parts = gather_rows(mine, counts).split(counts)
        in_turn = [part[turn] for turn in range(max(counts)) for part in parts if turn < len(part)]
        used = gather_rows(self.used[None], [1] * n_ranks()).any(0)
        return ValidationSums(self.d_in, in_turn, used)

    def metrics(self) -> dict[str, float]:
        """``fvu`` = sum |x - x_hat|^2 / sum |x - mean|^2 over all activations, mean ``l0``, number of ``dead_atoms``."""
        total = functools.reduce(torch.add, self.batches, torch.zeros(OTHER_SUMS + self.d_in, dtype=torch.float64))
        count, squares, residual, l0 = total[:OTHER_SUMS].tolist()
        variance = squares - float(total[OTHER_SUMS:].square().sum()) / max(count, 1)
        return {
            "fvu": residual / variance if variance > 0 else 0.0,
            "l0": l0 / max(count, 1),
            "dead_atoms": int((~self.used).sum()),
            "validation_activations": int(count),
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
