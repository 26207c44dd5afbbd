"""Results of a comparison of two models by their dictionaries, atom by atom."""

from dataclasses import dataclass

from itda_lightning.dictionary.sources import Prompt, Source


@dataclass(frozen=True)
class AtomDifference:
    """One atom of one model's dictionary, and how well the other model's dictionary explains its source."""

    atom: int  # its index in its dictionary
    source: Source
    prompt: Prompt  # the text of its row, cut at its token
    common: bool  # the other dictionary has an atom of the same source
    unexplained: float  # share of the other model's activation there that the other's dictionary does not explain
    unexplained_own: float | None  # as much of this model's activation; None if the two models have different widths
    # 1 - cosine of the two models' activations at the source, each about its mean over all sources read; needs no
    # dictionary. None if the two models have different widths.
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
    """The atoms of one model's dictionary (the owner's), read by the other model (the reader) and its dictionary."""

    owner: str
    reader: str
    n_atoms: int  # of the owner's dictionary
    n_reader_atoms: int
    unaligned: int  # number of sources without a token of their own in the reader's tokenizer
    unusable: int  # number of sources whose activation is zero or not finite in one of the models
    atoms: tuple[AtomDifference, ...]  # all others, by falling ``excess``


@dataclass(frozen=True)
class Difference:
    """Two models compared by their dictionaries."""

    title: str
    facts: dict[str, str]  # in the order shown
    directions: tuple[Direction, Direction]  # the base's atoms read by the other model, and the reverse
