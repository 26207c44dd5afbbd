"""Settings of a similarity study: the models, each a fitted run or a language model to fit on, and the measures."""

import re
from dataclasses import dataclass, field
from typing import Any

from itda_lightning.across_models.alignment import Alignment
from itda_lightning.errors import InputError
from itda_lightning.machine.checks import check_at_least
from itda_lightning.machine.choices import Loader
from itda_lightning.machine.paths import user_path

OF_SOURCES = ("jaccard", "weighted_jaccard")
# These decompose a whitened matrix for every resample of every pair of sites, or one rotation of it for each null.
SLOW = ("svcca", "pwcca", "regression", "aligned_cosine")
MEASURES = (
    *OF_SOURCES,
    *("cka", "debiased_cka", "svcca", "pwcca", "regression", "procrustes", "relative", "neighbours"),
    *("angular_procrustes", "aligned_cosine", "distance_correlation", "rsa", "second_order_cosine"),
)
DEFAULT_MEASURES = tuple(measure for measure in MEASURES if measure not in SLOW)


@dataclass(frozen=True)
class ModelSettings:
    """One model: a fitted run, or a language model on which ITDAs are fitted. Its other settings are those of ``data``.

    Attributes:
        name: its name in tables and on the page.
        run: a run directory or a saved dictionary, compared with the model and data of its fit.
        model: a language model: a hub name, a local directory, or bundled:smollm2-135m (SmolLM2-135M-Instruct,
            dequantised from 4 bits).
        hook_names: hook points from the first layer to the last; by default all of a run.
        loader: loader of the model: bridge, hooked_transformer or huggingface.
        model_revision: branch, tag or commit of the model on the hub.
        model_dtype: dtype of the model's weights and computation: float32, bfloat16 or float16.

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
            raise InputError("every one of models needs a name, which tables and the page show")
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
        """The arguments of ``ActivationsDataModule`` that belong to this model."""
        names = ("model", "hook_names", "loader", "model_revision", "model_dtype")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class SimilaritySettings:
    """The models to compare and the measures to compare them by.

    Args:
        models: models in the order shown; every hook point is compared with every other.
        directory: directory for the results, the page and the fitted dictionaries, which a second run reuses.
        title: heading of the page; null for the models' names.
        measures: any of jaccard (over chance), weighted_jaccard (by use), cka, debiased_cka, svcca, pwcca, regression,
            procrustes, relative, neighbours, angular_procrustes, aligned_cosine, distance_correlation, rsa,
            second_order_cosine. svcca, pwcca, regression and aligned_cosine take much longer than the others.
        alignment: tokens (models that read the same tokens), characters (tokens that end at the same character), or
            auto: tokens if all models read the same ones.
        orders: number of times every dictionary is grown again on the same tokens in another order, to measure how far
            two fits of one model agree; 0 for none.
        resamples: number of resamples of the documents for standard errors; 0 for none.
        anchors: number of tokens that are anchors of relative representations.
        queries: number of tokens whose nearest neighbours are compared.
        candidates: number of tokens among which these neighbours are searched, the queries among them; all tokens if
            there are fewer. With more candidates fewer neighbours are shared by chance.
        sample: number of tokens of which all pairs are compared (distance_correlation, rsa, second_order_cosine) or
            which are rotated (aligned_cosine). Takes 8 sample^2 bytes per hook point.
        k: number of nearest neighbours.
        wandb_project: log tables, heat maps and the page to this Weights & Biases project.

    Raises:
        InputError: no models, two models of one name, no measure, a measure that is unknown or given twice, or a number
            out of range, or a directory that no file system holds.
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
    candidates: int = 100_000
    sample: int = 1000
    k: int = 10
    wandb_project: str | None = None

    def __post_init__(self) -> None:
        names = [model.name for model in self.models]
        if not names:
            raise InputError("there is nothing to compare: give at least one of models")
        if duplicates := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"models must have different names, but several are called {duplicates}: rename them")
        if not self.measures or len(set(self.measures) & set(MEASURES)) != len(self.measures):
            raise InputError(f"measures must be some of {list(MEASURES)}, each once, got {self.measures}")
        user_path(self.directory, "directory")
        check_at_least(0, {"orders": self.orders, "resamples": self.resamples})
        check_at_least(1, {"queries": self.queries, "k": self.k})
        check_at_least(2, {"anchors": self.anchors})
        neighbours = {"candidates": self.candidates, "sample": self.sample}
        check_at_least(self.k + 2, neighbours, f"k is {self.k}, and of all other tokens the share would always be 1")
        check_at_least(self.queries, {"candidates": self.candidates}, "the queries are among the candidates")

    @property
    def of_sources(self) -> list[str]:
        """The requested measures that compare dictionaries."""
        return [measure for measure in self.measures if measure in OF_SOURCES]

    @property
    def of_activations(self) -> list[str]:
        """The requested measures that compare activations."""
        return [measure for measure in self.measures if measure not in OF_SOURCES]


def kind_of(hook_name: str) -> str:
    """Return a hook point's name with its numbers replaced by ``*``: the same for every layer."""
    return re.sub(r"\d+", "*", hook_name)


def short_labels(hook_names: list[str]) -> list[str]:
    """Return the numbers in the names if they are distinct, else the names."""
    numbers = [".".join(re.findall(r"\d+", name)) for name in hook_names]
    return numbers if len(set(numbers)) == len(numbers) and all(numbers) else list(hook_names)


def summary_of(hook_names: list[str]) -> str:
    """Return a short list of the hook points: their kind once, if they differ only in their numbers."""
    kinds, numbers = {kind_of(name) for name in hook_names}, short_labels(hook_names)
    if len(hook_names) == 1 or len(kinds) > 1 or numbers == hook_names:
        return ", ".join(hook_names)
    return f"{kinds.pop()} at {', '.join(numbers)}"
