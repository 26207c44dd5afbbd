"""Plain results of a run: what is saved as JSON and what pages and tables show. No model is needed to read them."""

import math
from dataclasses import dataclass

from itda_lightning.dictionary.sources import Prompt, Source


@dataclass(frozen=True)
class Term:
    """One atom's part in a decomposition.

    Attributes:
        atom: index of the atom.
        coefficient: signed weight of the atom; re-picks are summed.
        prompt: the atom's prompt, or None where only its index is known.
    """

    atom: int
    coefficient: float
    prompt: Prompt | None


@dataclass(frozen=True)
class TokenDecomposition:
    """One activation as a weighted sum of atoms (Tables 6-8 of arXiv 2505.17769).

    Attributes:
        prompt: the prompt, cut at the token whose activation this is.
        unexplained: share of ``|x - bias|^2`` that the terms leave, 0 for an activation that equals the bias.
        norm: ``|x - bias|``, the scale of the coefficients.
        terms: by falling ``|coefficient|``.
    """

    prompt: Prompt
    unexplained: float
    norm: float
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Example:
    """One held-out token that used an atom, with the coefficient it gave it."""

    coefficient: float
    prompt: Prompt


@dataclass(frozen=True)
class CoefficientRange:
    """The held-out tokens that gave an atom a coefficient in ``[low, high)``.

    Attributes:
        low, high: signed bounds; a range never contains coefficients of both signs.
        count: how many tokens.
        examples: a few of them, chosen by a fixed pseudo-random order, by falling ``|coefficient|``.
    """

    low: float
    high: float
    count: int
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class AtomUsage:
    """What held-out tokens used one atom for.

    Attributes:
        atom: index of the atom.
        source: where the atom comes from, or None where unknown.
        prompt: the text at the source, or None where unknown.
        count: how many tokens used the atom.
        density: the share of tokens that used it.
        histogram_limit: coefficients lie in ``(-histogram_limit, histogram_limit)``; a power of two, 0 if never used.
        histogram: how many coefficients in each of equal bins over that interval, an even number of bins.
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
    """What a dictionary did on held-out activations.

    Attributes:
        n_tokens: how many activations were encoded.
        residual_energy: sum of ``|x - x_hat|^2``.
        variance: sum of ``|x - mean|^2``, with the mean over these activations.
        l0_histogram: how many activations used 0, 1, ..., k distinct atoms.
        atoms: one ``AtomUsage`` an atom, in the order of the atoms.
    """

    n_tokens: int
    residual_energy: float
    variance: float
    l0_histogram: tuple[int, ...]
    atoms: tuple[AtomUsage, ...]

    @property
    def fvu(self) -> float:
        """The fraction of variance unexplained, a ratio of sums; nan where all activations are equal."""
        return self.residual_energy / self.variance if self.variance > 0 else math.nan

    @property
    def l0(self) -> float:
        """The mean number of distinct atoms in a code."""
        return sum(l0 * count for l0, count in enumerate(self.l0_histogram)) / self.n_tokens

    @property
    def dead_atoms(self) -> int:
        """The number of atoms that none of the ``n_tokens`` activations used."""
        return sum(usage.count == 0 for usage in self.atoms)

    @property
    def densities(self) -> tuple[float, ...]:
        """For each atom the share of activations that used it."""
        return tuple(usage.density for usage in self.atoms)


@dataclass(frozen=True)
class RunResults:
    """All that a page about one dictionary shows.

    Attributes:
        title: heading of the page.
        facts: name -> value, in the order shown: model, hook point, dataset, tokens, seed, versions, hardware.
        metrics: name -> value, in the order shown; nan for what could not be measured.
        usage: what the dictionary did on held-out activations.
        decompositions: a few held-out tokens.
        growth: (activations read, atoms) over the fit; empty where unknown.
        fvu_curve: (activations read, FVU) over the fit; empty where unknown.
    """

    title: str
    facts: dict[str, str]
    metrics: dict[str, float | int]
    usage: Usage
    decompositions: tuple[TokenDecomposition, ...] = ()
    growth: tuple[tuple[int, int], ...] = ()
    fvu_curve: tuple[tuple[int, float], ...] = ()
