"""Plain results of a comparison of two models by their dictionaries, atom by atom. No model is needed to read them."""

from dataclasses import dataclass

from itda_lightning.dictionary.sources import Prompt, Source


@dataclass(frozen=True)
class AtomDifference:
    """One atom of one model's dictionary as the other model's dictionary sees its source.

    Attributes:
        atom: its index in its dictionary.
        source: where it comes from.
        prompt: the text of its row, cut at its token.
        common: whether the other dictionary has an atom of the same source.
        unexplained: the share of the other model's activation at the source that the other's dictionary leaves.
        unexplained_own: the share of this model's activation at the source that the other's dictionary leaves; None where
            the two models have different widths.
        distance: 1 - cosine of the two models' activations at the source, each about its mean over all sources read; needs no
            dictionary. None where the two models have different widths.
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
        """How much worse the other's dictionary explains this model's activation than the other model's of the same token.

        The unexplained share alone ranks rare and long tokens first, in any two models: a dictionary never explains them
        well. Taking the other model's own share away leaves what differs between the models; it is exactly 0 for every
        atom where both models are the same, whatever their dictionaries are. Where widths differ no dictionary can read
        both models, and it is the unexplained share.
        """
        return self.unexplained if self.unexplained_own is None else self.unexplained_own - self.unexplained


@dataclass(frozen=True)
class Direction:
    """The atoms of one model's dictionary, read by the other model and its dictionary.

    Attributes:
        owner, reader: the names of the two.
        n_atoms: atoms of the owner's dictionary.
        n_reader_atoms: atoms of the reader's.
        unaligned: sources without a token of their own in the reader's tokenizer.
        unusable: sources whose activation is zero or not finite in one of the models.
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
        directions: the base's atoms read by the other model, and the other way round.
    """

    title: str
    facts: dict[str, str]
    directions: tuple[Direction, Direction]
