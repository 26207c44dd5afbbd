"""Results of a comparison of two models by their dictionaries, atom by atom."""

from dataclasses import dataclass

from itda_lightning.dictionary.sources import Prompt, Source


@dataclass(frozen=True)
class AtomDifference:
    """One atom of one model's dictionary, and how well the other model's dictionary explains its source.

    Attributes:
        atom: its index in its dictionary.
        source: its source.
        prompt: the text of its row, cut at its token.
        common: True if the other dictionary has an atom of the same source.
        unexplained: share of the other model's activation at the source that the other's dictionary does not explain.
        unexplained_own: share of this model's activation at the source that the other's dictionary does not explain;
            None if the two models have different widths.
        distance: 1 - cosine of the two models' activations at the source, each about its mean over all sources read;
            needs no dictionary. None if the two models have different widths.
    """

    atom: int
    source: Source
    prompt: Prompt
    common: bool
    unexplained: float
    unexplained_own: float | None
    distance: float | None

    @property
    def excess(self) -> float:
        """The unexplained share of this model's activation less that of the other model's activation of the same token.

        The unexplained share alone ranks rare and long tokens first, in any two models: a dictionary never explains
        them well. The excess is what differs between the models; it is exactly 0 for every atom if both models are
        the same, whatever their dictionaries. If widths differ, no dictionary can read both models, and the excess is
        the unexplained share.
        """
        return self.unexplained if self.unexplained_own is None else self.unexplained_own - self.unexplained


@dataclass(frozen=True)
class Direction:
    """The atoms of one model's dictionary, read by the other model and its dictionary.

    Attributes:
        owner, reader: names of the two models.
        n_atoms: number of atoms of the owner's dictionary.
        n_reader_atoms: number of atoms of the reader's.
        unaligned: number of sources without a token of their own in the reader's tokenizer.
        unusable: number of sources whose activation is zero or not finite in one of the models.
        atoms: all others, by falling ``excess``.
    """

    owner: str
    reader: str
    n_atoms: int
    n_reader_atoms: int
    unaligned: int
    unusable: int
    atoms: tuple[AtomDifference, ...]


@dataclass(frozen=True)
class Difference:
    """Two models compared by their dictionaries.

    Attributes:
        title: heading.
        facts: name -> value, in the order shown.
        directions: the base's atoms read by the other model, and the reverse.
    """

    title: str
    facts: dict[str, str]
    directions: tuple[Direction, Direction]
