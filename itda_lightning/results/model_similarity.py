"""Plain results of a comparison of models. No model is needed to read them."""

from dataclasses import dataclass

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Site:
    """One hook point of one model.

    Attributes:
        model: the model's name in the comparison.
        hook_name: the hook point.
        label: a short name of it among those of its model: its layer where that tells them apart.
    """

    model: str
    hook_name: str
    label: str


@dataclass(frozen=True)
class MeasuredSites:
    """One measure of all pairs of sites.

    Attributes:
        measure: its key, see ``MEASURES`` of the settings.
        values: ``values[i][j]`` compares site i with site j; i with itself is 1 by definition (of an excess over chance, 1 less
            chance). For measures that are not symmetric, i is predicted from, or weighted by, as the measure says of x.
        errors: standard errors, documents resampled; nan without resamples and 0 of a site with itself.
        seconds: the measuring, without what several measures share.
        accuracy: how often the same layer of another model is the most similar one (Eq. 9 of arXiv 2505.17769), over
            ordered pairs of different models of as many sites; nan where there is none.
        accuracy_error: its standard error, documents resampled.
        paper_accuracy: the form of the paper, in which every model is also compared with itself; nan as above.
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
        return self.jaccard - self.expected


@dataclass(frozen=True)
class WholeModels:
    """Two models by the unions of their layers' sources."""

    first: str
    second: str
    overlap: Overlap


@dataclass(frozen=True)
class Reordered:
    """A fit beside fits of the same model on the same tokens in other orders: what order alone changes.

    Attributes:
        model: the model.
        hook_name: the hook point; None for the union of all of the model.
        overlaps: with the fit on each other order.
    """

    model: str
    hook_name: str | None
    overlaps: tuple[Overlap, ...]


@dataclass(frozen=True)
class ModelSimilarity:
    """All that a page about a comparison of models shows.

    Attributes:
        title: heading.
        facts: name -> value, in the order shown.
        sites: the hook points of all models, model by model; rows and columns of all matrices.
        atoms: the number of atoms of each dictionary that count, the same for all; 0 where none are compared.
        universe: how many sources could have become atoms of any of them; 0 as above.
        chance: the Jaccard index of two random sets of so many sources; nan as above.
        measured: one a measure.
        whole_models: every pair of models; empty where no dictionaries are compared.
        reordered: every dictionary, then every model; empty where no other orders were asked for.
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
