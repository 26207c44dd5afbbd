"""A bounded table of the entries with the highest priority in each of many groups."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.dictionary.sources import COLUMNS


class BestPerGroup:
    """For each group the ``size`` coefficients of highest priority, with their sources; all tensors on the CPU.

    Memory is ``groups * size`` whatever the number of entries, what is kept does not depend on how they are cut into
    batches, and of equal priorities the earliest is kept.

    Attributes:
        priority: (groups, size) float64, falling along a row, -inf where nothing is kept.
        coefficient: (groups, size) float64.
        source: (groups, size, 6) int64.
    """

    def __init__(self, groups: int, size: int) -> None:
        self.size = size
        self.priority = torch.full((groups, size), -torch.inf, dtype=torch.float64)
        self.coefficient = torch.zeros(groups, size, dtype=torch.float64)
        self.source = torch.full((groups, size, len(COLUMNS)), -1, dtype=torch.int64)

    def add(
        self,
        group: Int[Tensor, " entries"],
        priority: Float[Tensor, " entries"],
        coefficient: Float[Tensor, " entries"],
        token: Int[Tensor, " entries"],
        table: Int[Tensor, "batch 6"],
    ) -> None:
        """Offer entries; the source of an entry is row ``token`` of ``table``."""
        if self.size == 0:
            return
        # After a few batches hardly any entry beats the worst one kept, so little is left to sort.
        better = priority > self.priority[group, -1]
        group, priority, coefficient = group[better], priority[better], coefficient[better]
        touched, index = group.unique(return_inverse=True)
        kept = torch.arange(len(touched)).repeat_interleave(self.size)
        # What is kept goes first, and both sorts are stable: of equal priorities the earlier one stays ahead.
        index = torch.cat([kept, index])
        priority = torch.cat([self.priority[touched].flatten(), priority])
        coefficient = torch.cat([self.coefficient[touched].flatten(), coefficient])
        source = torch.cat([self.source[touched].flatten(0, 1), table[token[better]]])
        order = priority.argsort(descending=True, stable=True)
        order = order[index[order].argsort(stable=True)]
        index = index[order]
        rank = torch.arange(len(order)) - torch.searchsorted(index, torch.arange(len(touched)))[index]
        within = rank < self.size
        order, row, rank = order[within], touched[index[within]], rank[within]
        self.priority[row, rank] = priority[order]
        self.coefficient[row, rank] = coefficient[order]
        self.source[row, rank] = source[order]

    def move(self, old: Int[Tensor, " m"], new: Int[Tensor, " m"]) -> None:
        """Put what the distinct groups ``old`` hold into the groups ``new``, of which several may be the same."""
        priority, coefficient, source = self.priority[old], self.coefficient[old], self.source[old]
        self.priority[old] = -torch.inf
        self.add(
            new.repeat_interleave(self.size),
            priority.flatten(),
            coefficient.flatten(),
            torch.arange(priority.numel()),
            source.flatten(0, 1),
        )
