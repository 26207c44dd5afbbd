"""The codes of all held-out tokens, by atom: small enough to keep, as a code has k entries and an activation d numbers."""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.sources import COLUMNS
from itda_lightning.errors import InputError
from itda_lightning.evaluation.used_latents import used_atoms

ROW, POSITION = COLUMNS.index("row"), COLUMNS.index("position")


class AtomCodes:
    """Which tokens use each atom, and with which coefficient.

    Args:
        dictionary: what encodes.
        batches: (activations (batch, d), their sources (batch, 6)), in the order of their rows and positions; read once.
        context_size: tokens in a row.

    Attributes:
        n_tokens: the tokens encoded.
        n_atoms: the atoms.

    Raises:
        InputError: no activations.
        ValueError: activations of another width than the atoms, or non-finite ones.
    """

    def __init__(
        self,
        dictionary: Dictionary,
        batches: Iterable[tuple[Float[Tensor, "batch d"], Int[Tensor, "batch 6"]]],
        context_size: int,
    ) -> None:
        self.n_atoms, self.n_tokens, self.context_size = dictionary.n_atoms, 0, context_size
        atoms, places, coefficients = [], [], []
        for x, table in batches:
            place = table[:, ROW] * context_size + table[:, POSITION]
            for used in used_atoms(dictionary, x):
                atoms.append(used.latent)
                places.append(place[used.token])
                coefficients.append(used.activation)
            self.n_tokens += len(x)
        if self.n_tokens == 0:
            raise InputError("no held-out activations to measure atoms on: give at least one")
        atom = torch.cat(atoms)
        order = atom.argsort(stable=True)  # so that the places of an atom stay in order
        self._place, self._coefficient = torch.cat(places)[order], torch.cat(coefficients)[order]
        self._bounds = torch.searchsorted(atom[order], torch.arange(self.n_atoms + 1)).tolist()

    def of(self, atom: int) -> tuple[Int[Tensor, " uses"], Float[Tensor, " uses"]]:
        """(index of the token in the flattened rows, coefficient) of every use of an atom, by rising index."""
        part = slice(self._bounds[atom], self._bounds[atom + 1])
        return self._place[part], self._coefficient[part]

    def in_row(self, atom: int, row: int) -> Float[Tensor, " context"]:
        """(context_size,) float64 coefficients of an atom in one row, 0 where it is not used."""
        place, coefficient = self.of(atom)
        start = row * self.context_size
        first, last = torch.searchsorted(place, torch.tensor([start, start + self.context_size])).tolist()
        values = torch.zeros(self.context_size, dtype=torch.float64)
        values[place[first:last] - start] = coefficient[first:last]
        return values
