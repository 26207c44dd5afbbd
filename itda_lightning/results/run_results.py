"""Results about one dictionary, as saved in JSON and shown on pages and in tables."""

import math
from dataclasses import dataclass

from itda_lightning.dictionary.sources import Prompt, Source


@dataclass(frozen=True)
class Term:
    """One atom in a decomposition."""

    atom: int
    coefficient: float  # signed; re-picks are summed
    prompt: Prompt | None  # None if unknown


@dataclass(frozen=True)
class TokenDecomposition:
    """One activation as a weighted sum of atoms (Tables 6-8 of arXiv 2505.17769)."""

    prompt: Prompt  # cut at the token whose activation this is
    unexplained: float  # share of ``|x - bias|^2`` that the terms do not explain, 0 for an activation equal to the bias
    norm: float  # ``|x|``, of the activation itself
    terms: tuple[Term, ...]  # by falling ``|coefficient|``
    distance: float | None = None  # ``|x - bias|``, the scale of the coefficients; None if the bias is zero


@dataclass(frozen=True)
class TokenCode:
    """The code of one token of a text that is read on the page: what ``TokenDecomposition`` says of more."""

    unexplained: float
    norm: float
    atoms: tuple[int, ...]  # by falling ``|coefficient|``
    coefficients: tuple[float, ...]


@dataclass(frozen=True)
class ReadRow:
    """One held-out row to read: joined, the pieces are its text; tokens that metrics leave out have no code."""

    pieces: tuple[str, ...]
    codes: tuple[TokenCode | None, ...]


@dataclass(frozen=True)
class AtomMeaning:
    """The nearest atoms of an atom and the tokens that it promotes, independent of any text."""

    nearest: tuple[tuple[int, float], ...]  # (other atom, cosine), largest cosine first
    promoted: tuple[str, ...] = ()  # tokens whose logits its direction raises most
    suppressed: tuple[str, ...] = ()
    sites: tuple[
        tuple[str, float], ...
    ] = ()  # (hook point, share of its energy there) of an atom of a joint dictionary


@dataclass(frozen=True)
class Example:
    """One held-out token that uses an atom, with the atom's coefficient."""

    coefficient: float
    prompt: Prompt


@dataclass(frozen=True)
class CoefficientRange:
    """The held-out tokens that use an atom with a coefficient in ``[low, high)``, never of both signs."""

    low: float
    high: float
    count: int  # number of tokens
    examples: tuple[Example, ...]  # a few of them, drawn at random with a fixed seed, by falling ``|coefficient|``


@dataclass(frozen=True)
class Detection:
    """One held-out token, with the cosine of its activation with an atom, whether or not its code uses the atom."""

    cosine: float
    prompt: Prompt


@dataclass(frozen=True)
class AtomUsage:
    """The use that held-out tokens make of one atom."""

    atom: int
    source: Source | None  # None if unknown
    prompt: Prompt | None  # the text at the source, or None if unknown
    count: int  # number of tokens that use the atom
    density: float  # the share of tokens that use it
    histogram_limit: float  # coefficients lie in ``(-limit, limit)``; a power of two, 0 if never used
    histogram: tuple[int, ...]  # counts of coefficients in equal bins over that interval, an even number of bins
    top: tuple[Example, ...]  # the tokens with the largest ``|coefficient|``, largest first
    ranges: tuple[CoefficientRange, ...]  # the non-empty ones, highest first; their examples leave out those in ``top``
    detected: tuple[Detection, ...] = ()  # the tokens with the largest cosine above 0, largest first


@dataclass(frozen=True)
class Usage:
    """A dictionary on held-out activations."""

    n_tokens: int  # number of activations encoded
    residual_energy: float  # sum of ``|x - x_hat|^2``
    variance: float  # sum of ``|x - mean|^2``, with the mean over these activations
    l0_histogram: tuple[int, ...]  # numbers of activations whose code has 0, 1, ..., k distinct atoms
    atoms: tuple[AtomUsage, ...]  # in the order of the dictionary
    unexplained: tuple[int, ...] = ()  # numbers of activations by unexplained share, in equal bins from 0 to 1

    @property
    def fvu(self) -> float:
        """The fraction of variance unexplained, a ratio of sums; nan if all activations are equal."""
        return self.residual_energy / self.variance if self.variance > 0 else math.nan

    @property
    def l0(self) -> float:
        """The mean number of distinct atoms in a code."""
        return sum(l0 * count for l0, count in enumerate(self.l0_histogram)) / self.n_tokens

    @property
    def dead_atoms(self) -> int:
        """The number of atoms that none of the activations uses."""
        return sum(usage.count == 0 for usage in self.atoms)

    @property
    def label_rate(self) -> float:
        """The share of detections whose token is the label's, a ratio of sums over atoms; nan without labels."""
        named = [atom for atom in self.atoms if atom.prompt is not None]
        shown = sum(len(atom.detected) for atom in named)
        right = sum(found.prompt.token == atom.prompt.token for atom in named if atom.prompt for found in atom.detected)
        return right / shown if shown else math.nan

    @property
    def densities(self) -> tuple[float, ...]:
        """The share of activations that use each atom."""
        return tuple(usage.density for usage in self.atoms)


@dataclass(frozen=True)
class RunResults:
    """The contents of a page about one dictionary."""

    title: str
    facts: dict[str, str]  # in the order shown: model, hook point, dataset, tokens, seed, versions, hardware
    metrics: dict[str, float | int]  # in the order shown; nan if it could not be measured
    usage: Usage  # the dictionary on held-out activations
    decompositions: tuple[TokenDecomposition, ...] = ()  # of a few held-out tokens
    growth: tuple[tuple[int, int], ...] = ()  # (activations read, atoms) over the fit; empty if unknown
    fvu_curve: tuple[tuple[int, float], ...] = ()  # (activations read, FVU) over the fit; empty if unknown
    worst: tuple[TokenDecomposition, ...] = ()  # the held-out tokens with the largest unexplained shares
    reading: tuple[ReadRow, ...] = ()  # held-out rows to read token by token
    meanings: tuple[AtomMeaning, ...] = ()  # of every atom, or empty
    signed: bool = True  # coefficients may be negative
