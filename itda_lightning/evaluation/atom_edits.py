"""Edits of activations by atoms: what is added to the sum that explains an activation; the error term is kept."""

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.evaluation.typical_uses import typical_coefficient
from itda_lightning.machine.checks import check_choice

Units = Literal["typical", "coefficient"]
UNITS = ("typical", "coefficient")


class AtomEdits:
    """Add atoms to activations, set their coefficients, take them out, or put others in their place.

    An activation is what its code explains plus an error. Only the shares of the atoms named here change.

    Args:
        dictionary: its codes are those of each activation as it comes.
        add: atom -> strength that is added to every activation; None ablates.
        clamp: atom -> strength that its coefficient is set to in every activation.
        ablate: atoms that are taken out of the codes that use them.
        swap: atom -> the one that takes its place, as strong in terms of its own typical use.
        units: "typical" for strengths in typical coefficients of the atom, "coefficient" for coefficients.
        skip_first: leave the first token of each text alone.

    Attributes:
        tokens: activations edited so far, the first ones apart if they are skipped.
        fired: atom that is clamped, ablated or swapped -> codes that used it so far.

    Raises:
        InputError: nothing to do, an atom that is not there or is named twice, a strength that is not finite, an atom
            without a typical coefficient.
    """

    def __init__(
        self,
        dictionary: Dictionary,
        add: Mapping[int, float | None],
        clamp: Mapping[int, float],
        ablate: Iterable[int],
        swap: Mapping[int, int],
        units: str,
        skip_first: bool,
    ) -> None:
        check_choice(UNITS, {"units": units})
        self.dictionary, self.units, self.skip_first = dictionary, units, skip_first
        check = dictionary.check_atom
        taken_out = [*ablate, *(atom for atom, strength in add.items() if strength is None)]
        self.add = {check(atom): strength for atom, strength in add.items() if strength is not None}
        self.clamp = {check(atom): strength for atom, strength in clamp.items()}
        self.ablate = [check(atom) for atom in taken_out]
        self.swap = {check(atom): check(other) for atom, other in swap.items()}
        named = [*self.add, *self.clamp, *self.ablate, *self.swap]
        if not named:
            raise InputError("nothing to do: name an atom to add, clamp, ablate or swap")
        if len(set(named)) < len(named):
            twice = next(atom for atom in named if named.count(atom) > 1)
            raise InputError(f"atom {twice} is named twice: add, clamp, ablate or swap it")
        self.tokens = 0
        self.fired = dict.fromkeys([*self.clamp, *self.ablate, *self.swap], 0)
        # The atoms whose coefficients are read come first.
        others = [atom for atom in (*self.add, *self.swap.values()) if atom not in self.fired]
        self._atoms = torch.tensor([*self.fired, *dict.fromkeys(others)])
        place = {atom: index for index, atom in enumerate(self._atoms.tolist())}
        self._constant, n = torch.zeros(len(place)), len(self.fired)
        for atom, strength in (self.add | self.clamp).items():
            self._constant[place[atom]] = self._coefficient(atom, strength)
        # Coefficients that are read -> change of all.
        self._linear = torch.zeros(n, len(place))
        self._linear[range(n), range(n)] = -1
        for atom, other in self.swap.items():
            self._linear[place[atom], place[other]] += self._ratio(atom, other)

    def __call__(
        self, x: Float[Tensor, "batch positions d"], first: Bool[Tensor, "batch positions"]
    ) -> Float[Tensor, "batch positions d"]:
        """Return edited activations; those whose codes do not change come back bit for bit."""
        chosen = ~first if self.skip_first else torch.ones_like(first)
        rows = x[chosen]
        device = self.dictionary.bias.device
        change = self._constant.to(device).expand(len(rows), -1)
        if self.fired and len(rows):
            current = self._coefficients(rows.detach().to(device))
            for atom, count in zip(self.fired, (current != 0).sum(0).tolist(), strict=True):
                self.fired[atom] += count
            change = change + current @ self._linear.to(current)
        self.tokens += len(rows)
        changed = (change != 0).any(1)
        # An atom at a time: a product with one row is exact up to one rounding.
        added = sum(
            change[:, [index]] * self.dictionary.atoms[atom].to(change)
            for index, atom in enumerate(self._atoms.tolist())
        )
        assert isinstance(added, Tensor)
        edited = (rows.to(torch.promote_types(rows.dtype, torch.float32)) + added.to(x.device)).to(x.dtype)
        result = x.clone()
        result[chosen] = torch.where(changed.to(x.device)[:, None], edited, rows)
        return result

    def never_fired(self) -> list[int]:
        """Return the atoms that were to be ablated or swapped, and are in no code so far."""
        return [atom for atom in (*self.ablate, *self.swap) if self.fired[atom] == 0 and self.tokens]

    def describe(self) -> list[str]:
        """Return one line per edit."""
        unit = "x its typical coefficient" if self.units == "typical" else "in coefficients"
        label = self.dictionary.label
        return [
            *(f"add atom {atom}, {strength:g} {unit}: {label(atom)}" for atom, strength in self.add.items()),
            *(f"clamp atom {atom} to {strength:g} {unit}: {label(atom)}" for atom, strength in self.clamp.items()),
            *(f"ablate atom {atom}: {label(atom)}" for atom in self.ablate),
            *(f"swap atom {a} for {b}: {label(a)} -> {label(b)}" for a, b in self.swap.items()),
        ]

    def _coefficients(self, rows: Float[Tensor, "rows d"]) -> Float[Tensor, "rows read"]:
        """Return the coefficients of the atoms that are read in the codes of activations."""
        code, read = self.dictionary.encode(rows), self._atoms[: len(self.fired)].to(rows.device)
        return torch.stack([torch.where(code.support == atom, code.coefficients, 0.0).sum(1) for atom in read], dim=1)

    def _coefficient(self, atom: int, strength: float) -> float:
        if not abs(strength) < torch.inf:
            raise InputError(f"the strength of atom {atom} must be finite, got {strength}")
        return strength if self.units == "coefficient" or strength == 0 else strength * self._typical(atom)

    def _ratio(self, atom: int, other: int) -> float:
        return 1.0 if self.units == "coefficient" else self._typical(other) / self._typical(atom)

    def _typical(self, atom: int) -> float:
        remedy = "give strengths as coefficients (units=coefficient)"
        try:
            typical = typical_coefficient(self.dictionary, atom)
        except InputError as error:
            raise InputError(f"{error}; or {remedy}") from error
        if typical == 0:
            raise InputError(
                f"atom {atom} is used by no held-out activation, so no strength is typical of it: {remedy}"
            )
        return typical
