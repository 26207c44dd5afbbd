"""The tokens at which an atom is strongest, as they are printed and shown in a notebook."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from itda_lightning.dictionary.sources import Prompt
from itda_lightning.results.html_table import html_table


@dataclass(frozen=True)
class Context:
    """One token with the strength of an atom there."""

    strength: float  # a cosine or a coefficient
    prompt: Prompt


@dataclass(frozen=True)
class Contexts(Sequence[Context]):
    """The contexts of one atom, the strongest first."""

    atom: int
    label: str
    by: str  # what the strengths are: "cosine" or "coefficient"
    contexts: tuple[Context, ...]

    def __len__(self) -> int:
        return len(self.contexts)

    @overload
    def __getitem__(self, index: int) -> Context: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Context, ...]: ...
    def __getitem__(self, index: int | slice) -> Context | tuple[Context, ...]:
        return self.contexts[index]

    def __iter__(self) -> Iterator[Context]:
        return iter(self.contexts)

    def __repr__(self) -> str:
        lines = [f"{context.strength:>9.3g} {context.prompt.in_one_line()}" for context in self.contexts]
        return "\n".join([f"atom {self.atom}, {self.label}, by {self.by}:", *(lines or ["nowhere"])])

    def _repr_html_(self) -> str:
        """Return a table for notebooks, its text escaped."""
        rows = [(f"{context.strength:.3g}", context.prompt.in_one_line()) for context in self.contexts]
        return html_table((self.by, "context"), rows, f"atom {self.atom}, {self.label}")
