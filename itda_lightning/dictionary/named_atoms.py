"""The names of a dictionary's atoms: the sources that they were grown from, and labels found after refinement."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from itda_lightning.dictionary.sources import COLUMNS, Prompt, Sources
from itda_lightning.errors import InputError


class Labels(NamedTuple):
    """Activations that n atoms are named by instead of their first sources.

    Attributes:
        table: (n, 6) int64 sources of the activations, of the dictionary's dataset.
        cosines: (n,) float64 cosines of the atoms with them.
        prompts: one ``Prompt`` per atom, or None.
    """

    table: Int[Tensor, "n 6"]
    cosines: Float[Tensor, " n"]
    prompts: tuple[Prompt, ...] | None = None


class NamedAtoms(nn.Module):
    """Atoms with sources and, after a relabelling, labels; until then the sources are the labels.

    Attributes:
        dataset: fingerprint of the documents of sources and labels; None without sources.
        prompts: those of the sources, or None.
    """

    _table: Tensor
    _count: Tensor
    _labels: Tensor | None
    _label_cosines: Tensor | None

    def _name(self, capacity: int, n: int, sources: Sources | None) -> None:
        """Register the buffers for ``capacity`` names, and name the first n atoms by their sources."""
        self.dataset: str | None = sources.dataset if sources is not None else None
        self.prompts: tuple[Prompt, ...] | None = sources.prompts if sources is not None else None
        self._label_prompts: tuple[Prompt, ...] | None = None
        self.register_buffer("_table", torch.full((capacity, len(COLUMNS)), -1, dtype=torch.int64))
        self.register_buffer("_count", torch.tensor(n))
        if sources is not None:
            self._table[:n] = sources.table
        self.register_buffer("_labels", None)
        self.register_buffer("_label_cosines", None)
        self.register_load_state_dict_post_hook(_forget_prompts)

    @property
    def n_atoms(self) -> int:
        return int(self._count)

    @property
    def source_table(self) -> Int[Tensor, "n 6"]:
        """The int64 sources of the atoms; rows of -1 if unknown."""
        return self._table[: self.n_atoms]

    @property
    def sources(self) -> Sources | None:
        """The atoms' sources; None for a dictionary without sources."""
        if self.dataset is None:
            return None
        return Sources(self.source_table.cpu().clone(), self.dataset, self.prompts)

    @property
    def cosines(self) -> Float[Tensor, " n"] | None:
        """The float64 cosines of atoms with their sources' activations; None if they are those."""
        return None

    @property
    def labels(self) -> Int[Tensor, "n 6"]:
        """The sources of the activations that name the atoms: those of the last relabelling, or ``source_table``."""
        return self.source_table if self._labels is None else self._labels[: self.n_atoms]

    @property
    def label_cosines(self) -> Float[Tensor, " n"] | None:
        """The float64 cosines of atoms with the activations that name them; None if they are those."""
        return self.cosines if self._label_cosines is None else self._label_cosines[: self.n_atoms].double()

    @property
    def label_prompts(self) -> tuple[Prompt, ...] | None:
        """The text of ``labels``: one prompt per atom; None if unknown."""
        return self.prompts if self._labels is None else self._label_prompts

    @property
    def relabelled(self) -> Labels | None:
        """The labels of the last relabelling, on the CPU; None without one."""
        if self._labels is None or (cosines := self.label_cosines) is None:
            return None
        return Labels(self.labels.cpu().clone(), cosines.cpu().clone(), self._label_prompts)

    def relabel(self, labels: Labels) -> None:
        """Name the atoms by ``labels``, in place. Raises InputError for another number of them."""
        table, cosines, prompts = labels
        sizes = {len(table), len(cosines), len(table if prompts is None else prompts)}
        if sizes != {self.n_atoms} or table.shape[1:] != (len(COLUMNS),):
            raise InputError(
                f"{self.n_atoms} atoms have one label each, of {len(COLUMNS)} columns, with its cosine and prompt; "
                f"got a table of shape {tuple(table.shape)} and {len(cosines)} cosines"
            )
        self.keep_labels()
        assert self._labels is not None
        assert self._label_cosines is not None
        self._labels[: len(table)], self._label_cosines[: len(table)] = table, cosines
        self._label_prompts = prompts

    def keep_labels(self) -> None:
        """Make room for labels, unless there is some."""
        if self._labels is None:
            self._labels = self._table.clone()
            self._label_cosines = torch.ones(len(self._table), dtype=torch.float64, device=self._table.device)


def _forget_prompts(atoms: NamedAtoms, _: object) -> None:
    # A state_dict has no prompts, so those that are left belong to the atoms before.
    atoms.prompts = atoms._label_prompts = None
