"""A text as sums of atoms, token by token, as it is printed, shown in a notebook and written as JSON."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any, overload

from itda_lightning.results.html_table import html_table

SHOWN = 4  # atoms per token in a table


@dataclasses.dataclass(frozen=True)
class WeightedAtom:
    """One atom in the sum of a token."""

    atom: int
    label: str  # one line, as ``Dictionary.label`` gives it
    coefficient: float  # signed; re-picks are summed
    share: float  # of ``|x - bias|^2``: coefficient times projection; those of an orthogonal pursuit add up


@dataclasses.dataclass(frozen=True)
class DecomposedToken:
    """One token of a text."""

    position: int  # in the text, from 0
    token: str
    norm: float  # ``|x|``, of the activation itself
    unexplained: float  # share of ``|x - bias|^2``
    atoms: tuple[WeightedAtom, ...]  # by falling ``|coefficient|``


@dataclasses.dataclass(frozen=True)
class DecomposedText(Sequence[DecomposedToken]):
    """The tokens of a text that were decomposed, in the order asked for."""

    text: str
    tokens: tuple[DecomposedToken, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    @overload
    def __getitem__(self, index: int) -> DecomposedToken: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[DecomposedToken, ...]: ...
    def __getitem__(self, index: int | slice) -> DecomposedToken | tuple[DecomposedToken, ...]:
        return self.tokens[index]

    def __iter__(self) -> Iterator[DecomposedToken]:
        return iter(self.tokens)

    def as_dict(self) -> dict[str, Any]:
        """Return text and tokens as plain values for JSON."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """Return text and tokens as JSON."""
        return json.dumps(self.as_dict(), ensure_ascii=False, allow_nan=False)

    def __repr__(self) -> str:
        lines = [
            f"{token.position:>4} {token.token!r}, {100 * token.unexplained:.0f}% unexplained: {_sum(token, SHOWN)}"
            for token in self.tokens
        ]
        return "\n".join(lines) or "no token"

    def _repr_html_(self) -> str:
        """Return a table for notebooks, its text escaped."""
        rows = [
            (token.position, token.token, f"{100 * token.unexplained:.0f}%", f"{token.norm:.3g}", _sum(token, SHOWN))
            for token in self.tokens
        ]
        return html_table(("", "token", "unexplained", "norm", "largest atoms"), rows)


def _sum(token: DecomposedToken, most: int) -> str:
    terms = [f"{term.coefficient:+.3g} · {term.atom} {term.label}" for term in token.atoms[:most]]
    left = len(token.atoms) - len(terms)
    return "; ".join(terms) + (f"; and {left} more" if left else "")
