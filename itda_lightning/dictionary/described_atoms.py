"""Atoms described in words: one line per atom, a search by token, and what a notebook shows of a dictionary."""

import html
import operator
from typing import Any

from torch import Tensor

from itda_lightning.dictionary.named_atoms import NamedAtoms
from itda_lightning.errors import InputError
from itda_lightning.machine.bundled_names import described

SHOWN = 10  # atoms in a notebook's table


class DescribedAtoms(NamedAtoms):
    """Named atoms that say who they are."""

    k: int
    pursuit: str
    nonnegative: bool
    metadata: dict[str, Any]
    _atoms: Tensor

    def label(self, atom: int) -> str:
        """Return one line that names an atom: its token in brackets, some text around it, and the label's cosine.

        Raises InputError for an atom that is not there.

        Example:
            >>> import torch
            >>> import itda_lightning as il
            >>> table = torch.tensor([[0, 0, 3, 17, 8, 12]])
            >>> prompt = il.Prompt("the cat sat on the", " mat", " and slept")
            >>> dictionary = il.Dictionary(torch.eye(4)[:1], sources=il.Sources(table, "a dataset", (prompt,)), k=1)
            >>> dictionary.label(0)
            'the cat sat on the[ mat] and slept (cosine 1.00)'
        """
        atom = self.check_atom(atom)
        cosines, prompts = self.label_cosines, self.label_prompts
        cosine = 1.0 if cosines is None else float(cosines[atom])
        if prompts is None:
            document, _, position, token, *_ = self.labels[atom].tolist()
            if document < 0:
                return "no label"
            named = f"token {token} at position {position} of document {document}"
        else:
            named = prompts[atom].in_one_line()
        return f"{named} (cosine {cosine:.2f})"

    def check_atom(self, atom: int) -> int:
        """Return the index of an atom, counted from 0 if it was from the end. Raises InputError if it is not there."""
        try:
            number = operator.index(atom)  # numpy's integers, too
        except TypeError as error:
            raise InputError(f"an atom has a number below {self.n_atoms:,}, got {atom!r}: give that") from error
        if not -self.n_atoms <= number < self.n_atoms:
            raise InputError(f"there is no atom {number}: the dictionary has {self.n_atoms:,}, from 0 on")
        return number % self.n_atoms

    def find(self, token: str) -> list[int]:
        """Return the atoms whose label is this token, case and outer spaces apart, the largest label cosine first.

        Raises InputError for a dictionary whose labels have no text.

        Example:
            >>> import torch
            >>> import itda_lightning as il
            >>> prompts = (il.Prompt("the", " cat", " sat"), il.Prompt("on the", " mat", ""))
            >>> sources = il.Sources(torch.zeros(2, 6, dtype=torch.int64), "a dataset", prompts)
            >>> il.Dictionary(torch.eye(4)[:2], sources=sources, k=1).find("mat")
            [1]
        """
        prompts, cosines = self.label_prompts, self.label_cosines
        if prompts is None:
            raise InputError("the labels of this dictionary have no text: load it from its run directory")
        sought = token.strip().casefold()
        found = [atom for atom, prompt in enumerate(prompts) if prompt.token.strip().casefold() == sought]
        return found if cosines is None else sorted(found, key=lambda atom: -float(cosines[atom]))

    def summary(self) -> dict[str, str]:
        """Return what a dictionary is, name by name: size, codes, origin, and the figures of its last validation."""
        facts = self.metadata
        codes = f"{self.pursuit}, {'non-negative' if self.nonnegative else 'signed'}, k = {self.k}"
        rows = {"atoms": f"{self.n_atoms:,} of width {self._atoms.shape[1]}", "codes": codes}
        origin = {"hook point": "hook_name", "model": "model_name", "text": "dataset_path"}
        rows |= {name: described(facts[field]) for name, field in origin.items() if facts.get(field) is not None}
        figures = (facts.get("refinement") or {}).get("validation") or (facts.get("validation") or [None])[-1]
        if figures is not None:
            rows["held out"] = f"FVU {figures['fvu']:.3f}, mean L0 {figures['l0']:.1f}"
        return rows

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'; '.join(f'{name}: {value}' for name, value in self.summary().items())})"

    def _repr_html_(self) -> str:
        """Return the summary and the first labels as a table, for notebooks."""
        labels = {f"atom {atom}": self.label(atom) for atom in range(min(SHOWN, self.n_atoms))}
        rows = (self.summary() | labels).items()
        cells = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in rows)
        return f"<table>{cells}</table>"
