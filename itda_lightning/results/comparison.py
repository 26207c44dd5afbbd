"""Results of a comparison: one row per entry, all measured on the same held-out tokens."""

import math
from dataclasses import dataclass, field
from typing import Literal

from itda_lightning.dictionary.sources import Prompt

Kind = Literal["itda", "sae", "random", "pca"]


@dataclass(frozen=True)
class Estimate:
    """A measured number.

    Attributes:
        value: the number; nan if it could not be measured.
        error: its standard error, over documents (bootstrap) or seeds; None if there is none, as for a count.
    """

    value: float
    error: float | None = None


@dataclass(frozen=True)
class Cost:
    """The cost of an entry; None if unknown, as for SAEs trained elsewhere.

    Attributes:
        seconds: wall time of the fit or the training, without the harvest.
        harvest_seconds: wall time in which this machine harvests the activations read.
        activations_seen: number of training activations, repeats included.
        activations_read: number of distinct training activations.
        peak_bytes: largest resident memory of the process meanwhile.
        parameters: number of parameters of encoder, decoder and biases.
        disk_bytes: size of its files.
        encoded_per_second: activations encoded per second on this machine.
    """

    seconds: float | None = None
    harvest_seconds: float | None = None
    activations_seen: int | None = None
    activations_read: int | None = None
    peak_bytes: int | None = None
    parameters: int | None = None
    disk_bytes: int | None = None
    encoded_per_second: float | None = None


@dataclass(frozen=True)
class Encoding:
    """The settings with which a dictionary encodes activations.

    Attributes:
        k: sparsity, the largest number of atoms that a pursuit selects.
        pursuit: its short name.
        nonnegative: True if coefficients are at least 0.
        centred: True if a mean is subtracted before encoding.
    """

    k: int
    pursuit: Literal["mp", "omp", "gomp"]
    nonnegative: bool
    centred: bool


@dataclass(frozen=True)
class Row:
    """One entry of a comparison.

    Attributes:
        name: its name in the config; no two rows of a comparison share one.
        kind: an ITDA, an SAE, or one of the controls (random activations as atoms, principal components).
        architecture: SAELens's name of the architecture.
        width: number of latents, of a signed dictionary the number of atoms.
        settings: name -> text for readers: sparsity, pursuit, learning rate, path; see ``encoding`` for typed values.
        tokens_hash: hash of the held-out token ids and masks on which everything is measured.
        identity: hash of all that decides the figures; a row with the same identity need not be measured again.
        measures: name -> estimate, in the order shown; see ``MEASURES``, and ``probing/...`` for downstream scores.
        cost: its cost.
        densities: the share of held-out tokens that use each latent; empty if unknown.
        curve: (activations seen, FVU) during the fit or the training; empty if unknown.
        measured_seconds: time that measuring took.
        reused: True if the row is from an earlier run.
        failure: the reason if there are no figures, else None.
        encoding: the settings with which an ITDA or a control encodes; None for other SAEs.
    """

    name: str
    kind: Kind
    architecture: str = ""
    width: int = 0
    settings: dict[str, str] = field(default_factory=dict)
    tokens_hash: str = ""
    identity: str = ""
    measures: dict[str, Estimate] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    densities: tuple[float, ...] = ()
    curve: tuple[tuple[int, float], ...] = ()
    measured_seconds: float = 0.0
    reused: bool = False
    failure: str | None = None
    encoding: Encoding | None = None

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
    """One latent on the held-out tokens.

    Attributes:
        latent: its index in its entry.
        density: the share of tokens that use it.
        limit: its activations lie in (-limit, limit).
        histogram: their counts in equal bins over that interval, an even number of bins.
        top: (index of the token in the flattened ``LatentView.rows``, activation), largest magnitude first.
        promoted, suppressed: indices into ``LatentView.vocabulary`` of the tokens whose logits the latent's direction
            raises and lowers most, strongest first.
    """

    latent: int
    density: float
    limit: float
    histogram: tuple[int, ...]
    top: tuple[tuple[int, float], ...]
    promoted: tuple[int, ...]
    suppressed: tuple[int, ...]


@dataclass(frozen=True)
class NearestLatents:
    """The nearest latents of one other entry, one per atom shown.

    Attributes:
        name: the entry's name.
        nearest: (index of the latent, cosine of the two decoder rows) per atom shown.
        latents: those latents, each once.
    """

    name: str
    nearest: tuple[tuple[int, float], ...]
    latents: tuple[LatentSummary, ...]


@dataclass(frozen=True)
class LatentView:
    """Atoms of one ITDA beside the nearest latents of the other entries.

    Attributes:
        reference: the ITDA's name.
        rows: the text of every token of the held-out rows from which the examples are.
        vocabulary: the texts of the vocabulary's tokens that logit effects name.
        atoms: the atoms shown.
        sources: the prompt of each of them, or None if unknown.
        others: the other entries.
        source_cosines: of each refined atom with the activation of its source; None for atoms that are not refined.
    """

    reference: str
    rows: tuple[tuple[str, ...], ...]
    vocabulary: tuple[str, ...]
    atoms: tuple[LatentSummary, ...]
    sources: tuple[Prompt | None, ...]
    others: tuple[NearestLatents, ...]
    source_cosines: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Comparison:
    """The contents of a dashboard.

    Attributes:
        title: heading.
        facts: name -> value, in the order shown: model, revision, hook point, data, tokens, seeds, versions, hardware.
        rows: the entries in the order of the config, those that failed included.
        latents: atoms beside their nearest latents, or None without an ITDA.
    """

    title: str
    facts: dict[str, str]
    rows: tuple[Row, ...]
    latents: LatentView | None = None
