"""Settings of a comparison: its entries, each loaded, made on the spot, or a control, and how they are measured."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from itda_lightning.comparison.probe_settings import ProbeSettings
from itda_lightning.errors import InputError
from itda_lightning.fitting.arguments import GrowthPolicy
from itda_lightning.fitting.module import ITDA
from itda_lightning.fitting.refinement import RefinementSettings
from itda_lightning.machine.checks import check_at_least, check_seed, check_wanted_l0
from itda_lightning.machine.paths import user_path
from itda_lightning.pursuit import PursuitName
from itda_lightning.saelens.training_settings import TrainingSettings


@dataclass(frozen=True)
class FitSettings:
    """An ITDA fitted on the comparison's own activations; see ``ITDA`` for all but ``tokens`` and ``refine``.

    Attributes:
        tokens: fit on this many training tokens, from the first on; null for all.
        refine: refine the atoms after growth, on the same tokens; null for no refinement.

    Raises:
        InputError: as ``ITDA``.
    """

    max_atoms: int = 4096
    k: int = 32
    pursuit: PursuitName = "omp"
    nonnegative: bool = False
    growth: GrowthPolicy = "sequential"
    threshold: float | None = None
    energy_exponent: float | None = None
    center: bool = True
    tokens: int | None = None
    refine: RefinementSettings | None = None
    least_gain: float = 0.0
    l0: float | None = None

    def __post_init__(self) -> None:
        check_at_least(1, {"fit.tokens": self.tokens})
        self.module()

    def module(self) -> ITDA:
        """Return the module to fit."""
        return ITDA(**{name: value for name, value in asdict(self).items() if name not in ("tokens", "refine")})


@dataclass(frozen=True)
class RandomSettings:
    """The control of an ITDA: one training activation drawn at random per atom.

    Attributes:
        n_atoms: the number of atoms.
        k: sparsity of a code.
        pursuit: how activations are encoded: mp, omp or gomp.
        nonnegative: non-negative coefficients only.
        center: subtract the mean activation, as an ITDA does by default.
        tokens: draw from this many training tokens, from the first on; null for all.
        seed: seed of the draw.
        l0: prune codes to this mean number of atoms on held-out activations; null for codes that are not pruned.

    Raises:
        InputError: fewer than one atom or pursuit step, or ``l0`` not above 0 and at most k.
    """

    n_atoms: int
    k: int = 32
    pursuit: PursuitName = "omp"
    nonnegative: bool = False
    center: bool = True
    tokens: int | None = None
    seed: int = 0
    l0: float | None = None

    def __post_init__(self) -> None:
        check_at_least(1, {"random.n_atoms": self.n_atoms, "random.k": self.k, "random.tokens": self.tokens})
        check_seed({"random.seed": self.seed})
        check_wanted_l0("random.l0", self.l0, self.k)


@dataclass(frozen=True)
class KMeansSettings:
    """A control of an ITDA: the centroids of mini-batch k-means as atoms, one per cluster of training activations.

    Activations are centred and scaled to unit norm before they are clustered, and the centroids to unit norm. It needs
    scikit-learn (``pip install 'itda-lightning[kmeans]'``).

    Attributes:
        n_atoms: the number of centroids.
        k: sparsity of a code.
        pursuit: how activations are encoded: mp, omp or gomp.
        nonnegative: non-negative coefficients only.
        center: subtract the mean activation, as an ITDA does by default.
        tokens: cluster this many training tokens, from the first on; null for all.
        passes: how often the activations are read.
        seed: seed of the first centroids and of the order of activations.
        l0: prune codes to this mean number of atoms on held-out activations; null for codes that are not pruned.

    Raises:
        InputError: fewer than one centroid, pursuit step or pass, or ``l0`` not above 0 and at most k.
    """

    n_atoms: int
    k: int = 32
    pursuit: PursuitName = "omp"
    nonnegative: bool = False
    center: bool = True
    tokens: int | None = None
    passes: int = 3
    seed: int = 0
    l0: float | None = None

    def __post_init__(self) -> None:
        positive = {f"kmeans.{name}": getattr(self, name) for name in ("n_atoms", "k", "tokens", "passes")}
        check_at_least(1, positive)
        check_seed({"kmeans.seed": self.seed})
        check_wanted_l0("kmeans.l0", self.l0, self.k)


@dataclass(frozen=True)
class PCASettings:
    """The best reconstruction by k fixed directions: the mean and k principal components.

    Attributes:
        k: the number of components.
        tokens: take the components of this many training tokens, from the first on; null for all.

    Raises:
        InputError: no component.
    """

    k: int = 32
    tokens: int | None = None

    def __post_init__(self) -> None:
        check_at_least(1, {"pca.k": self.k, "pca.tokens": self.tokens})


@dataclass(frozen=True)
class EntrySettings:
    """One entry: exactly one of ``load``, ``fit``, ``train``, ``random``, ``kmeans`` and ``pca``.

    Attributes:
        name: the entry's name in tables and on the page.
        load: a run directory, a saved or exported dictionary, a SAELens SAE on disk,
            hf://owner/name, or release:sae_id.
        same_model: the entry is of the comparison's model although their names differ (a copy, an alias).
        fit: fit an ITDA.
        train: train an SAE with SAELens.
        random: draw atoms at random.
        kmeans: take the centroids of k-means as atoms.
        pca: take principal components.

    Raises:
        InputError: no name, or not exactly one of the six ways.
    """

    name: str
    load: str | None = None
    same_model: bool = False
    fit: FitSettings | None = None
    train: TrainingSettings | None = None
    random: RandomSettings | None = None
    kmeans: KMeansSettings | None = None
    pca: PCASettings | None = None

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise InputError("every entry needs a name: it stands in tables and on the page")
        if len(self.ways) != 1:
            raise InputError(
                f"the entry {self.name!r} must have exactly one of load, fit, train, random, kmeans and pca, got "
                f"{self.ways}"
            )

    @property
    def ways(self) -> list[str]:
        """The ways to obtain the entry that are given."""
        ways = [field.name for field in fields(self) if field.name not in ("name", "same_model")]
        return [way for way in ways if getattr(self, way) is not None]

    @property
    def way(self) -> str:
        """The one way that is given."""
        return self.ways[0]

    @property
    def chosen(self) -> Any:
        """The settings of that way; to load, the path or release."""
        return getattr(self, self.way)


Control = Literal["random", "pca", "kmeans", "frozen"]
CHEAP_CONTROLS: tuple[Control, ...] = ("random", "pca")


@dataclass(frozen=True)
class ComparisonSettings:
    """The entries to compare, and how to measure them.

    Args:
        entries: the entries in the order shown.
        directory: directory of the rows, of what is fitted and trained, of the results and of the page. A second run in
            the same directory takes over the rows whose entry, data and measurements are the same.
        title: heading of the page; null for the model and the hook point.
        controls: true: as many random atoms as each ITDA has, and as many principal components as its codes have atoms.
            false: none. A list chooses: random, pca, kmeans (as many centroids of k-means as each ITDA has atoms) and
            frozen (each trained SAE again, its decoder frozen at random).
        loss_tokens: held-out tokens to measure CE and KL on: two passes of the whole model, and one more per entry.
        model_batch_size: rows in one forward pass of the whole model.
        probes: sparse probing of every entry by sae-probes; null for none.
        latents: show the atoms of the first ITDA beside the nearest latents of other entries.
        atoms_shown: largest number of atoms shown.
        latents_of: largest number of other entries shown (controls are left out).
        wandb_project: log the tables and plots to this Weights & Biases project.

    Raises:
        InputError: no entries, two of one name, a number out of range, or a directory that no file system holds.
    """

    entries: list[EntrySettings]
    directory: str
    title: str | None = None
    controls: bool | list[Control] = True
    loss_tokens: int = 4096
    model_batch_size: int = 4
    probes: ProbeSettings | None = None
    latents: bool = True
    atoms_shown: int = 4096
    latents_of: int = 4
    wandb_project: str | None = None

    def __post_init__(self) -> None:
        if not self.entries:
            raise InputError("there is nothing to compare: give at least one of entries")
        names = [entry.name for entry in self.entries]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise InputError(f"entries must have different names, but several are called {repeated}: rename them")
        user_path(self.directory, "directory")
        names_of_counts = ("loss_tokens", "model_batch_size", "atoms_shown", "latents_of")
        check_at_least(1, {name: getattr(self, name) for name in names_of_counts})

    @property
    def chosen_controls(self) -> tuple[str, ...]:
        """The kinds of controls to add."""
        if isinstance(self.controls, list):
            return tuple(self.controls)
        return CHEAP_CONTROLS if self.controls else ()
