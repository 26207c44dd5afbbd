"""What is compared and how: models, each given by a fitted run or fitted on the spot, and the measures."""

import re
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from itda_lightning.across_models.alignment import Alignment
from itda_lightning.activations.models.language_model import Loader
from itda_lightning.errors import InputError
from itda_lightning.machine.checks import check_at_least

Measure = Literal[
    "jaccard",
    "weighted_jaccard",
    "cka",
    "debiased_cka",
    "svcca",
    "pwcca",
    "regression",
    "procrustes",
    "relative",
    "neighbours",
]
MEASURES: tuple[Measure, ...] = get_args(Measure)
OF_SOURCES: tuple[Measure, ...] = ("jaccard", "weighted_jaccard")
# Those that take a singular value decomposition of a whitened matrix for every resample of every pair are left out.
DEFAULT_MEASURES: tuple[Measure, ...] = (
    "jaccard",
    "weighted_jaccard",
    "cka",
    "debiased_cka",
    "procrustes",
    "relative",
    "neighbours",
)


@dataclass(frozen=True)
class ModelSettings:
    """One model: a run, or a language model on which ITDAs are fitted. The rest of its settings are those of ``data``.

    Attributes:
        name: what tables and the page call it.
        run: a run directory or a saved dictionary; its model and data are those of its fit.
        model: a language model, as ``data.model`` of a fit.
        hook_names: the hook points, from the first layer to the last; of a run all by default.
        loader: bridge, hooked_transformer or huggingface, as ``data.loader`` of a fit.
        model_revision: branch, tag or commit of the model on the hub.
        model_dtype: float32, bfloat16 or float16.

    Raises:
        InputError: no name; not exactly one of run and model; a model without hook points.
    """

    name: str
    run: str | None = None
    model: str | None = None
    hook_names: list[str] = field(default_factory=list)
    loader: Loader = "bridge"
    model_revision: str | None = None
    model_dtype: str = "float32"

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise InputError("every one of models needs a name: it stands in tables and on the page")
        if (self.run is None) == (self.model is None):
            raise InputError(
                f"{self.name!r} must have exactly one of run and model, got {self.run!r} and {self.model!r}"
            )
        if self.model is not None and not self.hook_names:
            raise InputError(f"{self.name!r} needs hook_names: which layers of {self.model!r} are compared")
        if len(set(self.hook_names)) != len(self.hook_names):
            raise InputError(f"{self.name!r} names a hook point twice: {self.hook_names}")

    @property
    def of_the_model(self) -> dict[str, Any]:
        """The settings of its data that are not shared with other models."""
        names = ("model", "hook_names", "loader", "model_revision", "model_dtype")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class SimilaritySettings:
    """What to compare and how to measure it.

    Args:
        models: what is compared, in the order shown; every hook point of all with every other.
        directory: where the results, the page and the fitted dictionaries go. A second run takes over the dictionaries.
        title: heading of the page; null for the models' names.
        measures: what is measured: jaccard (over chance), weighted_jaccard (by use), cka, debiased_cka, svcca, pwcca, regression,
            procrustes, relative, neighbours. Those of svcca, pwcca and regression are the dear ones.
        alignment: tokens (models that read the same tokens), characters (the ends of tokens in the text), or auto: tokens
            where they are the same.
        orders: how often every dictionary is grown again on the same tokens in another order, to tell how far two
            fits of the same model agree; 0 for not.
        resamples: how often documents are resampled for standard errors; 0 for none.
        anchors: tokens that serve as anchors of relative representations.
        queries: tokens whose nearest neighbours are compared.
        k: how many nearest neighbours.
        wandb_project: log tables, heat maps and the page to this Weights & Biases project.

    Raises:
        InputError: no models or two of one name, no measure, one that is unknown or named twice, or a number out of range.
    """

    models: list[ModelSettings]
    directory: str
    title: str | None = None
    measures: list[str] = field(default_factory=lambda: list(DEFAULT_MEASURES))
    alignment: Alignment = "auto"
    orders: int = 1
    resamples: int = 20
    anchors: int = 300
    queries: int = 1000
    k: int = 10
    wandb_project: str | None = None

    def __post_init__(self) -> None:
        names = [model.name for model in self.models]
        if not names:
            raise InputError("there is nothing to compare: give at least one of models")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"models must have different names, but several are called {twice}: rename them")
        unknown = [measure for measure in self.measures if measure not in MEASURES]
        if unknown or not self.measures or len(set(self.measures)) != len(self.measures):
            raise InputError(f"measures must be some of {list(MEASURES)}, each once, got {self.measures}")
        check_at_least(0, {"orders": self.orders, "resamples": self.resamples})
        check_at_least(1, {"queries": self.queries, "k": self.k})
        check_at_least(2, {"anchors": self.anchors})

    @property
    def of_sources(self) -> list[str]:
        """The measures asked for that compare dictionaries."""
        return [measure for measure in self.measures if measure in OF_SOURCES]

    @property
    def of_activations(self) -> list[str]:
        """The measures asked for that compare activations."""
        return [measure for measure in self.measures if measure not in OF_SOURCES]


def kind_of(hook_name: str) -> str:
    """A hook point's name without its numbers: what it is of every layer."""
    return re.sub(r"\d+", "*", hook_name)


def short_labels(hook_names: list[str]) -> list[str]:
    """The numbers in the names where they tell the hook points apart, else the names."""
    numbers = [".".join(re.findall(r"\d+", name)) for name in hook_names]
    return numbers if len(set(numbers)) == len(numbers) and all(numbers) else list(hook_names)


def summary_of(hook_names: list[str]) -> str:
    """All hook points in few words: what they are once, where they differ in their numbers only."""
    kinds, numbers = {kind_of(name) for name in hook_names}, short_labels(hook_names)
    if len(hook_names) == 1 or len(kinds) > 1 or numbers == hook_names:
        return ", ".join(hook_names)
    return f"{kinds.pop()} at {', '.join(numbers)}"
