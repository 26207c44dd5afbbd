"""Results about one dictionary, as saved in JSON and shown on pages and in tables."""

import math
from dataclasses import dataclass

from itda_lightning.dictionary.sources import Prompt, Source


@dataclass(frozen=True)
class Term:
    """One atom in a decomposition.

    Attributes:
        atom: index of the atom.
        coefficient: signed weight of the atom; re-picks are summed.
        prompt: the atom's prompt, or None if unknown.
    """

    atom: int
    coefficient: float
    prompt: Prompt | None


@dataclass(frozen=True)
class TokenDecomposition:
    """One activation as a weighted sum of atoms (Tables 6-8 of arXiv 2505.17769).

    Attributes:
        prompt: the prompt, cut at the token whose activation this is.
        unexplained: share of ``|x - bias|^2`` that the terms do not explain, 0 for an activation equal to the bias.
        norm: ``|x - bias|``, the scale of the coefficients.
        terms: by falling ``|coefficient|``.
    """

    prompt: Prompt
    unexplained: float
    norm: float
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Example:
    """One held-out token that uses an atom, with the atom's coefficient."""

    coefficient: float
    prompt: Prompt


@dataclass(frozen=True)
class CoefficientRange:
    """The held-out tokens that use an atom with a coefficient in ``[low, high)``.

    Attributes:
        low, high: signed bounds; no range contains coefficients of both signs.
        count: number of tokens.
        examples: a few of them, drawn at random with a fixed seed, by falling ``|coefficient|``.
    """

    low: float
    high: float
    count: int
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class AtomUsage:
    """The use that held-out tokens make of one atom.

    Attributes:
        atom: index of the atom.
        source: the source of the atom, or None if unknown.
        prompt: the text at the source, or None if unknown.
        count: number of tokens that use the atom.
        density: the share of tokens that use it.
        histogram_limit: coefficients lie in ``(-histogram_limit, histogram_limit)``; a power of two, 0 if never used.
        histogram: counts of coefficients in equal bins over that interval, an even number of bins.
        top: the tokens with the largest ``|coefficient|``, largest first.
        ranges: the non-empty ranges of coefficient, highest first; their examples leave out those in ``top``.
    """

    atom: int
    source: Source | None
    prompt: Prompt | None
    count: int
    density: float
    histogram_limit: float
    histogram: tuple[int, ...]
    top: tuple[Example, ...]
    ranges: tuple[CoefficientRange, ...]


@dataclass(frozen=True)
class Usage:
    """A dictionary on held-out activations.

    Attributes:
        n_tokens: number of activations encoded.
        residual_energy: sum of ``|x - x_hat|^2``.
        variance: sum of ``|x - mean|^2``, with the mean over these activations.
        l0_histogram: numbers of activations whose code has 0, 1, ..., k distinct atoms.
        atoms: one ``AtomUsage`` per atom, in the order of the atoms.
    """

    n_tokens: int
    residual_energy: float
    variance: float
    l0_histogram: tuple[int, ...]
    atoms: tuple[AtomUsage, ...]

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
    def densities(self) -> tuple[float, ...]:
        """The share of activations that use each atom."""
        return tuple(usage.density for usage in self.atoms)


@dataclass(frozen=True)
class RunResults:
    """The contents of a page about one dictionary.

    Attributes:
        title: heading of the page.
        facts: name -> value, in the order shown: model, hook point, dataset, tokens, seed, versions, hardware.
        metrics: name -> value, in the order shown; nan if it could not be measured.
        usage: the dictionary on held-out activations.
        decompositions: decompositions of a few held-out tokens.
        growth: (activations read, atoms) over the fit; empty if unknown.
        fvu_curve: (activations read, FVU) over the fit; empty if unknown.
    """

    title: str
    facts: dict[str, str]
    metrics: dict[str, float | int]
    usage: Usage
    decompositions: tuple[TokenDecomposition, ...] = ()
    growth: tuple[tuple[int, int], ...] = ()
    fvu_curve: tuple[tuple[int, float], ...] = ()
