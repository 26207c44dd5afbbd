"""Show what a model writes after a prompt beside what it writes while it is steered."""

import dataclasses
import json
import shutil
import textwrap
from typing import Any

from itda_lightning.results.html_table import html_table

NARROWEST = 20  # characters of a column


@dataclasses.dataclass(frozen=True)
class SteeredText:
    """One prompt, continued twice.

    The loss is the mean cross-entropy per token of the prompt with what the model wrote unsteered, and ``kl`` the mean
    Kullback-Leibler divergence per token of the steered predictions from the others on that text.
    """

    prompt: str
    before: str  # what the model writes
    after: str  # what it writes while it is steered
    loss_before: float
    loss_after: float
    kl: float
    edits: tuple[str, ...]  # one line each
    fired: dict[int, int]  # atom that is clamped, ablated or swapped -> tokens of the steered text whose code used it
    tokens: int  # of the steered text that were edited
    unused: tuple[str, ...] = ()  # one line per atom that was to be taken out and is in no code

    def as_dict(self) -> dict[str, Any]:
        """Return all as plain values for JSON."""
        return dataclasses.asdict(self) | {"fired": {str(atom): count for atom, count in self.fired.items()}}

    def to_json(self) -> str:
        """Return all as JSON."""
        return json.dumps(self.as_dict(), ensure_ascii=False, allow_nan=False)

    def __repr__(self) -> str:
        width = max(NARROWEST, (shutil.get_terminal_size((80, 24)).columns - 3) // 2)
        columns = [
            [line for part in text.splitlines() for line in (textwrap.wrap(part, width) or [""])]
            for text in (f"before: {self.before}", f"after: {self.after}")
        ]
        height = max(map(len, columns))
        left, right = ([*column, *[""] * (height - len(column))] for column in columns)
        beside = [f"{one:<{width}} | {other}".rstrip() for one, other in zip(left, right, strict=True)]
        return "\n".join([f"prompt: {self.prompt}", *self.edits, *beside, self._figures(), *self.unused])

    def _repr_html_(self) -> str:
        """Return a table for notebooks, its text escaped."""
        rows = [(self.before, self.after)]
        return html_table(
            ("before", "after"), rows, "\n".join([self.prompt, *self.edits, self._figures(), *self.unused])
        )

    def _figures(self) -> str:
        change = self.loss_after - self.loss_before
        fired = "".join(f"; atom {atom} is in {count} of {self.tokens} codes" for atom, count in self.fired.items())
        return (
            f"loss {self.loss_before:.3f} -> {self.loss_after:.3f} ({change:+.3f}), KL {self.kl:.3f} per token{fired}"
        )
