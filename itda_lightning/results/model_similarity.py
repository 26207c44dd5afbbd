"""Results of a comparison of models."""

from dataclasses import dataclass

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Site:
    """One hook point of one model.

    Attributes:
        model: the model's name in the comparison.
        hook_name: the hook point.
        label: a short name among the hook points of its model: its layer if that is unique.
    """

    model: str
    hook_name: str
    label: str


@dataclass(frozen=True)
class MeasuredSites:
    """One measure of all pairs of sites.

    Attributes:
        measure: its key, see ``MEASURES`` of the settings.
        values: ``values[i][j]`` compares site i with site j; i with itself is 1 by definition (of an excess over
            chance, 1 less chance). If the measure is not symmetric, site i takes the part of x in its definition.
        errors: standard errors, documents resampled; nan without resamples and 0 of a site with itself.
        seconds: time that measuring took, without what several measures share.
        accuracy: share of layers whose most similar layer of another model is the same one (Eq. 9 of arXiv 2505.17769),
            over ordered pairs of different models with equally many sites; nan if there is none.
        accuracy_error: its standard error, documents resampled.
        paper_accuracy: as in the paper, where every model is also compared with itself; nan as above.
    """

    measure: str
    values: Matrix
    errors: Matrix
    seconds: float
    accuracy: float
    accuracy_error: float
    paper_accuracy: float


@dataclass(frozen=True)
class Overlap:
    """A Jaccard index of two sets of sources beside chance.

    Attributes:
        jaccard: the index.
        expected: its mean for two random sets of the same sizes.
        error: its standard error, documents resampled; nan without resamples.
    """

    jaccard: float
    expected: float
    error: float

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
    """A fit compared with fits of the same model on the same tokens in other orders.

    Attributes:
        model: the model.
        hook_name: the hook point; None for the union of all of the model.
        overlaps: overlaps with the fits on each other order.
    """

    model: str
    hook_name: str | None
    overlaps: tuple[Overlap, ...]


@dataclass(frozen=True)
class ModelSimilarity:
    """The contents of a page about a comparison of models.

    Attributes:
        title: heading.
        facts: name -> value, in the order shown.
        sites: the hook points of all models, model by model; rows and columns of all matrices.
        atoms: number of atoms per dictionary that are compared, the same for all; 0 without dictionaries.
        universe: number of sources that could have become atoms of any of them; 0 as above.
        chance: the Jaccard index of two random sets of that size; nan as above.
        measured: one per measure.
        whole_models: every pair of models; empty without dictionaries.
        reordered: every dictionary, then every model; empty without other orders.
    """

    title: str
    facts: dict[str, str]
    sites: tuple[Site, ...]
    atoms: int
    universe: int
    chance: float
    measured: tuple[MeasuredSites, ...]
    whole_models: tuple[WholeModels, ...]
    reordered: tuple[Reordered, ...]
