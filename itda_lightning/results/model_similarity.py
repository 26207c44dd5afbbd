"""Results of a comparison of models."""

from dataclasses import dataclass

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Site:
    """One hook point of one model."""

    model: str  # the model's name in the comparison
    hook_name: str
    label: str  # a short name among the hook points of its model: its layer if that is unique


@dataclass(frozen=True)
class MeasuredSites:
    """One measure of all pairs of sites."""

    measure: str  # one of ``similarity_settings.MEASURES``
    # ``values[i][j]`` compares site i with site j; i with itself is 1 by definition (of an excess over chance, 1 less
    # chance). If the measure is not symmetric, site i takes the part of x in its definition.
    values: Matrix
    errors: Matrix  # standard errors, documents resampled; nan without resamples and 0 of a site with itself
    # ``nulls[i][j]``: the value expected if the tokens of one of the two sites are permuted, nan of a site with itself;
    # of the Jaccard index over chance 0, as chance is subtracted. () in results of versions before 7.
    nulls: Matrix
    # ``(value - null) / (1 - null)``, see ``measures.excess``: 0 for permuted tokens; of a site with itself 1.
    excesses: Matrix
    seconds: float  # time that measuring took, without what several measures share
    # Share of layers whose most similar layer of another model is the same one (Eq. 9 of arXiv 2505.17769), over
    # ordered pairs of different models with equally many sites; nan if there is none.
    accuracy: float
    accuracy_error: float  # its standard error, documents resampled
    paper_accuracy: float  # as in the paper, where every model is also compared with itself; nan as above


@dataclass(frozen=True)
class Overlap:
    """A Jaccard index of two sets of sources beside chance."""

    jaccard: float
    expected: float  # its mean for two random sets of the same sizes
    error: float  # its standard error, documents resampled; nan without resamples

    @property
    def excess(self) -> float:
        """The index less its expectation."""
        return self.jaccard - self.expected


@dataclass(frozen=True)
class WholeModels:
    """Two models by the unions of their layers' sources."""

    first: str
    second: str
    overlap: Overlap


@dataclass(frozen=True)
class Reordered:
    """A fit compared with fits of the same model on the same tokens in other orders."""

    model: str
    hook_name: str | None  # None for the union of all of the model
    overlaps: tuple[Overlap, ...]  # one per other order


@dataclass(frozen=True)
class ModelSimilarity:
    """The contents of a page about a comparison of models."""

    title: str
    facts: dict[str, str]  # in the order shown
    sites: tuple[Site, ...]  # of all models, model by model; rows and columns of all matrices
    atoms: int  # number of atoms per dictionary that are compared, the same for all; 0 without dictionaries
    universe: int  # number of sources that could have become atoms of any of them; 0 as above
    chance: float  # the Jaccard index of two random sets of that size; nan as above
    measured: tuple[MeasuredSites, ...]  # one per measure
    whole_models: tuple[WholeModels, ...]  # every pair of models; empty without dictionaries
    reordered: tuple[Reordered, ...]  # every dictionary, then every model; empty without other orders
