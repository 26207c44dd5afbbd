"""The codes of held-out tokens, kept once and sorted by latent: all that is asked about what latents are used for."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.sources import COLUMNS
from itda_lightning.errors import InputError
from itda_lightning.evaluation.used_latents import Used, used_of
from itda_lightning.machine.choices import Strength

ROW, POSITION = COLUMNS.index("row"), COLUMNS.index("position")


@dataclass(frozen=True)
class HeldOutCodes:
    """Every use of every latent; all tensors on the CPU.

    Uses are sorted by latent, and those of a latent stand in the order in which tokens were read. ``counts`` are the
    tokens that use each latent. Activations of an ITDA keep their sign.
    """

    sources: Int[Tensor, "tokens 6"]
    token: Int[Tensor, " uses"]
    activation: Float[Tensor, " uses"]
    counts: Int[Tensor, " latents"]

    @property
    def n_tokens(self) -> int:
        return len(self.sources)

    @cached_property
    def latent(self) -> Int[Tensor, " uses"]:
        return torch.arange(len(self.counts)).repeat_interleave(self.counts)

    @cached_property
    def _bounds(self) -> list[int]:
        return [0, *self.counts.cumsum(0).tolist()]

    def of(self, latent: int) -> tuple[Int[Tensor, " uses"], Float[Tensor, " uses"]]:
        """Return (token, activation) of every use of a latent."""
        part = slice(self._bounds[latent], self._bounds[latent + 1])
        return self.token[part], self.activation[part]

    def in_row(self, latent: int, row: int, context_size: int) -> Float[Tensor, " context"]:
        """Return the activations of a latent in one row, 0 where it is not used."""
        token, activation = self.of(latent)
        inside = self.sources[token, ROW] == row
        values = torch.zeros(context_size, dtype=torch.float64)
        values[self.sources[token[inside], POSITION]] = activation[inside]
        return values

    @cached_property
    def limits(self) -> Float[Tensor, " latents"]:
        """The smallest power of two above the magnitudes of each latent, 0 for a latent never used."""
        # |a| = mantissa * 2^e with a mantissa in [0.5, 1), so the quotient is 2^e.
        powers = torch.where(self.activation == 0, 0.0, self.activation / torch.frexp(self.activation).mantissa)
        return torch.zeros(len(self.counts), dtype=torch.float64).scatter_reduce(0, self.latent, powers, "amax")

    def bins(self, half: int) -> Int[Tensor, " uses"]:
        """Return in which of ``2 * half`` equal bins of (-limit, limit) each activation lies."""
        limit = self.limits[self.latent]
        # Dividing by a power of two is exact: no rounding moves an activation over an edge.
        position = torch.where(limit > 0, self.activation / limit, 0.0) * half
        return (position.floor().long() + half).clamp(0, 2 * half - 1)

    def histograms(self, half: int) -> Int[Tensor, "latents bins"]:
        """Count the activations of each latent in ``2 * half`` equal bins of (-limit, limit)."""
        shape = len(self.counts), 2 * half
        return torch.bincount(self.latent * 2 * half + self.bins(half), minlength=shape[0] * shape[1]).view(shape)

    def largest(self, count: int) -> Int[Tensor, "latents count"]:
        """Return the uses of each latent with the largest magnitude; see ``best_of_groups``."""
        return best_of_groups(self.latent, self.activation.abs(), len(self.counts), count)


def evenly(n: int, most: int) -> Int[Tensor, " m"]:
    """Return at most ``most`` of n indices, evenly spread from the first on."""
    m = min(n, most)
    return torch.arange(m) * n // max(m, 1)


def best_of_groups(
    group: Int[Tensor, " entries"], priority: Float[Tensor, " entries"], n_groups: int, count: int
) -> Int[Tensor, "groups count"]:
    """Find the ``count`` entries of each group with the highest priority, of equal ones the earliest first.

    Indices of entries are followed by -1 once a group has no more.
    """
    order = priority.argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]
    group = group[order]
    rank = torch.arange(len(order)) - torch.searchsorted(group, torch.arange(n_groups))[group]
    within = rank < count
    best = torch.full((n_groups, count), -1, dtype=torch.int64)
    best[group[within], rank[within]] = order[within]
    return best


class CodesMeter:
    """Collect codes of held-out tokens: 16 bytes per use of a latent and 48 bytes per token."""

    def __init__(self, n_latents: int) -> None:
        self.n_latents = n_latents
        self.n_tokens = 0
        self._tables: list[Tensor] = []
        none = torch.zeros(0, dtype=torch.int32)
        self._used: list[tuple[Tensor, Tensor, Tensor]] = [(none, none, none.double())]

    def update(self, used: Iterable[Used], table: Int[Tensor, "batch 6"]) -> None:
        """Add the codes of a batch, whose tokens are counted from 0, with the sources of its tokens."""
        for part in used:
            self._used.append(((part.token + self.n_tokens).int(), part.latent.int(), part.activation))
        self._tables.append(table.cpu())
        self.n_tokens += len(table)

    def compute(self) -> HeldOutCodes:
        """Sort the codes by latent. Raises InputError without any token."""
        if self.n_tokens == 0:
            raise InputError("no held-out activations to measure on: give at least one")
        token, latent, activation = (torch.cat(parts) for parts in zip(*self._used, strict=True))
        order = latent.argsort(stable=True)  # so that the tokens of a latent stay in order
        counts = torch.bincount(latent, minlength=self.n_latents)
        return HeldOutCodes(torch.cat(self._tables), token[order], activation[order], counts)


def codes_of(
    dictionary: Dictionary,
    batches: Iterable[tuple[Float[Tensor, "batch d"], Int[Tensor, "batch 6"]]],
    strength: Strength = "coefficient",
) -> HeldOutCodes:
    """Encode activations with their sources and keep the codes; or, by the cosine, the k atoms that are detected most.

    Raises InputError without any activations.
    """
    meter = CodesMeter(dictionary.n_atoms)
    for x, table in batches:
        meter.update([uses_of(dictionary, x, strength)], table)
    return meter.compute()


def uses_of(dictionary: Dictionary, x: Float[Tensor, "batch d"], strength: Strength) -> Used:
    """Return which atoms activations use, with coefficients, or the cosines of the k atoms that are detected most."""
    x = x.to(dictionary.bias.device)
    return used_of(dictionary.encode(x)) if strength == "coefficient" else _detected(dictionary, x)


def _detected(dictionary: Dictionary, x: Float[Tensor, "batch d"]) -> Used:
    """Return the k largest cosines of each activation with atoms, if they are above 0."""
    cosine, atom = dictionary.detect(x).topk(min(dictionary.k, dictionary.n_atoms), dim=1)
    kept = cosine > 0
    return Used(kept.nonzero()[:, 0].cpu(), atom[kept].cpu(), cosine[kept].double().cpu())
