"""Results of a comparison: one row per entry, all measured on the same held-out tokens."""

import math
from dataclasses import dataclass, field
from typing import Literal

from itda_lightning.dictionary.sources import Prompt
from itda_lightning.errors import InputError

Kind = Literal["itda", "sae", "random", "pca", "kmeans", "frozen"]
# Entries beside which others are judged: atoms drawn at random, principal components, centroids of k-means, and SAEs
# whose decoder is frozen at random.
CONTROLS: tuple[Kind, ...] = ("random", "pca", "kmeans", "frozen")


@dataclass(frozen=True)
class ByDocument:
    """The two sums by held-out document whose totals a measure is the ratio of, in the order of the documents.

    Raises:
        InputError: not as many of both, or none.
    """

    above: tuple[float, ...]
    below: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.above) == len(self.below) > 0:
            raise InputError(f"expected as many sums above as below, got {len(self.above)} and {len(self.below)}")


@dataclass(frozen=True)
class ByDraw:
    """The scores whose mean a measure is: of each dataset one per draw.

    Raises:
        InputError: not as many draws of each dataset, or none.
    """

    scores: tuple[tuple[float, ...], ...]
    examples: str  # hash of the datasets and of what each draw takes

    def __post_init__(self) -> None:
        if len({len(draws) for draws in self.scores}) != 1 or not self.scores[0]:
            raise InputError(f"expected as many draws of each dataset, got {[len(draws) for draws in self.scores]}")


@dataclass(frozen=True)
class Estimate:
    """A measured number, nan if it could not be measured.

    What it was computed from is kept where another entry's can be subtracted (``results.paired``); results of earlier
    versions lack it.
    """

    value: float
    error: float | None = None  # standard error over documents (bootstrap) or seeds; None for a count
    documents: ByDocument | None = None
    draws: ByDraw | None = None


@dataclass(frozen=True)
class Cost:
    """The cost of an entry; None if unknown, as for SAEs trained elsewhere."""

    seconds: float | None = None  # wall time of the fit or the training, without the harvest
    harvest_seconds: float | None = None  # wall time in which this machine harvests the activations read
    activations_seen: int | None = None  # training activations, repeats included
    activations_read: int | None = None  # distinct training activations
    peak_bytes: int | None = None  # largest resident memory of the process meanwhile
    parameters: int | None = None  # numbers in encoder, decoder and biases
    disk_bytes: int | None = None  # size of its files
    encoded_per_second: float | None = None  # activations encoded per second on this machine


@dataclass(frozen=True)
class Encoding:
    """The settings with which a dictionary encodes activations."""

    k: int  # sparsity, the largest number of atoms that a pursuit selects
    pursuit: Literal["mp", "omp", "gomp"]
    nonnegative: bool  # coefficients are at least 0
    centred: bool  # a mean is subtracted before encoding
    least_gain: float = 0.0  # atoms that gain less of an activation's energy are pruned


@dataclass(frozen=True)
class Row:
    """One entry of a comparison."""

    name: str  # its name in the config; no two rows of a comparison share one
    kind: Kind  # an ITDA, an SAE, or one of ``CONTROLS``
    architecture: str = ""  # SAELens's name of it
    width: int = 0  # number of latents, or of atoms or components whose coefficients have both signs
    # Text for readers: sparsity, pursuit, learning rate, path; ``encoding`` has typed values.
    settings: dict[str, str] = field(default_factory=dict)
    tokens_hash: str = ""  # hash of the held-out token ids and masks on which everything is measured
    # Hash of all that decides the figures; a row with the same identity need not be measured again.
    identity: str = ""
    # In the order shown: those of ``MEASURES``, and ``probing/...`` for downstream scores.
    measures: dict[str, Estimate] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    densities: tuple[float, ...] = ()  # the share of held-out tokens that use each latent; empty if unknown
    curve: tuple[tuple[int, float], ...] = ()  # (activations seen, FVU) while it was made; empty if unknown
    decay_from: float | None = None  # share of the training from which on its learning rate fell; None if unknown
    measured_seconds: float = 0.0  # time that measuring took
    reused: bool = False  # the row is from an earlier run
    failure: str | None = None  # the reason if there are no figures
    encoding: Encoding | None = None  # of an ITDA or of atoms of a control; None for SAEs

    def value(self, measure: str) -> float:
        """Return the value of a measure, nan if the row has none."""
        return self.measures[measure].value if measure in self.measures else math.nan


# The measures that every row has, in the order shown. Losses are in nats per token; shares are of latents.
MEASURES = (
    "l0",
    "fvu",
    "cossim",
    "norm_ratio",
    "ce_loss_without_sae",
    "ce_loss_with_sae",
    "ce_loss_increase",
    "ce_loss_with_ablation",
    "ce_loss_score",
    "kl_div_with_sae",
    "kl_div_with_ablation",
    "kl_div_score",
    "dead_share",
    "dense_share",
)


@dataclass(frozen=True)
class LatentSummary:
    """One latent on the held-out tokens."""

    latent: int  # its index in its entry
    density: float  # the share of tokens that use it
    limit: float  # its activations lie in (-limit, limit)
    histogram: tuple[int, ...]  # their counts in equal bins over that interval, an even number of bins
    # (index of the token in the flattened ``LatentView.rows``, activation), largest magnitude first.
    top: tuple[tuple[int, float], ...]
    # Indices into ``LatentView.vocabulary`` of the tokens whose logits the latent's direction raises and lowers most,
    # strongest first.
    promoted: tuple[int, ...]
    suppressed: tuple[int, ...]


@dataclass(frozen=True)
class NearestLatents:
    """The nearest latents of one other entry, one per atom shown."""

    name: str  # the entry's
    nearest: tuple[tuple[int, float], ...]  # (index of the latent, cosine of the two decoder rows) per atom shown
    latents: tuple[LatentSummary, ...]  # those latents, each once


@dataclass(frozen=True)
class LatentView:
    """Atoms of one ITDA beside the nearest latents of the other entries."""

    reference: str  # the ITDA's name
    rows: tuple[tuple[str, ...], ...]  # the text of every token of the held-out rows from which the examples are
    vocabulary: tuple[str, ...]  # the texts of the vocabulary's tokens that logit effects name
    atoms: tuple[LatentSummary, ...]  # the atoms shown
    sources: tuple[Prompt | None, ...]  # the prompt of each of them, or None if unknown
    others: tuple[NearestLatents, ...]
    # Of each refined atom with the activation of its prompt; None for atoms that are not refined.
    source_cosines: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Comparison:
    """The contents of a dashboard."""

    title: str
    facts: dict[str, str]  # in the order shown: model, revision, hook point, data, tokens, seeds, versions, hardware
    rows: tuple[Row, ...]  # in the order of the config, those that failed included
    latents: LatentView | None = None  # None without an ITDA
