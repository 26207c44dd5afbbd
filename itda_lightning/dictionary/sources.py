"""Sources name atoms: the dataset, document and position of the token whose activation an atom is."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from itda_lightning.errors import InputError

AROUND = 30  # characters of the text before and after a token in one line
COLUMNS = ("document", "row", "position", "token", "start", "end")


class Source(NamedTuple):
    """The token that an activation belongs to.

    Attributes:
        document: index of the document in its dataset.
        row: index of the row in the tokenised dataset that the model read.
        position: index of the token in its row.
        token: the token's id.
        start, end: the token's character span in the document's text.

    Example:
        >>> from itda_lightning import Source
        >>> Source(document=7, row=0, position=3, token=262, start=10, end=14).document
        7
    """

    document: int
    row: int
    position: int
    token: int
    start: int
    end: int


class Prompt(NamedTuple):
    """The text that the model read, split at the marked token; ``before + token`` is the exact prompt.

    Example:
        >>> from itda_lightning import Prompt
        >>> prompt = Prompt(before="the cat sat on the", token=" mat", after=" and slept")
        >>> prompt.before + prompt.token
        'the cat sat on the mat'
    """

    before: str
    token: str
    after: str

    def in_one_line(self, around: int = AROUND) -> str:
        """Return the token in brackets with some text around it, line breaks as spaces."""
        before, after = self.before[-around:], self.after[:around]
        start, end = "…" * (len(before) < len(self.before)), "…" * (len(after) < len(self.after))
        return f"{start}{before}[{self.token}]{after}{end}".replace("\n", " ")


@dataclass(frozen=True)
class Sources:
    """The sources of n atoms, in the order of the atoms.

    Attributes:
        table: (n, 6) int64 on the CPU, columns as in ``COLUMNS``.
        dataset: fingerprint of the documents; sources of different datasets have nothing in common.
        prompts: one ``Prompt`` per atom, or None if only the indices are known.

    Example:
        >>> import torch
        >>> from itda_lightning import Sources
        >>> table = torch.tensor([[7, 0, 3, 262, 10, 14], [9, 1, 5, 11, 0, 3]])
        >>> sources = Sources(table, dataset="a fingerprint")
        >>> sources[1].document
        9
        >>> sorted(sources.keys())
        [(7, 10, 14), (9, 0, 3)]
    """

    table: Int[Tensor, "n 6"]
    dataset: str
    prompts: tuple[Prompt, ...] | None = None

    def __post_init__(self) -> None:
        if self.table.ndim != 2 or self.table.shape[1] != len(COLUMNS) or self.table.dtype != torch.int64:
            raise InputError(
                f"a table of sources is int64 of shape (n, {len(COLUMNS)}) with columns {COLUMNS}, "
                f"got {self.table.dtype} of shape {tuple(self.table.shape)}"
            )
        if self.prompts is not None and len(self.prompts) != len(self.table):
            raise InputError(f"{len(self.prompts)} prompts for {len(self.table)} sources: give one prompt per source")

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Source:
        return Source(*self.table[index].tolist())

    def keys(self) -> set[tuple[int, int, int]]:
        """Return (document, start, end) of the sources, by which they are compared, without unknown documents (-1)."""
        return {(source.document, source.start, source.end) for source in self if source.document >= 0}

    def __iter__(self) -> Iterator[Source]:
        return (Source(*row) for row in self.table.tolist())

    def intersection(self, other: "Sources") -> set[tuple[int, int, int]]:
        """Return the keys that both have. Raises InputError if the two come from different datasets."""
        self._check_same_dataset(other)
        return self.keys() & other.keys()

    def union(self, other: "Sources") -> set[tuple[int, int, int]]:
        """Return the keys that either has. Raises InputError if the two come from different datasets."""
        self._check_same_dataset(other)
        return self.keys() | other.keys()

    def recover(self, index: int, documents: Mapping[int, str] | Sequence[str]) -> Prompt:
        """Return the whole document of one source, split at its token.

        Raises:
            InputError: the source's document is unknown (-1), not among ``documents``, or shorter than the span.
        """
        source = self[index]
        if source.document < 0:
            raise InputError(f"the document of source {index} is unknown, so its text cannot be recovered")
        try:
            text = documents[source.document]
        except (KeyError, IndexError) as error:
            raise InputError(
                f"document {source.document} is not among the documents given: give those of dataset {self.dataset}"
            ) from error
        if source.end > len(text):
            raise InputError(
                f"document {source.document} has {len(text)} characters but the source's span is "
                f"{source.start}..{source.end}: these are not the documents of dataset {self.dataset}"
            )
        return Prompt(text[: source.start], text[source.start : source.end], text[source.end :])

    def _check_same_dataset(self, other: "Sources") -> None:
        if self.dataset != other.dataset:
            raise InputError(
                f"the sources come from different datasets ({self.dataset} and {other.dataset}): "
                "fit both dictionaries on the same documents"
            )
