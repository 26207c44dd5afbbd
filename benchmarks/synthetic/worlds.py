"""Worlds whose features are known: SynthSAEBench by its published recipe (arXiv 2602.14687), at three sizes.

A world and its samples are made once, by ``sae_lens.synthetic``, and kept under the hash of the recipe. Samples come in
parts of 8,192, each with a seed of its own, so sampling goes on where it stopped and longer runs read what shorter ones
made. A part holds which features fired and how strongly; activations follow from it in no time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import sae_lens
import torch
from jaxtyping import Float
from sae_lens.synthetic import (
    FoldedNormalMagnitudeConfig,
    HierarchyConfig,
    LinearMagnitudeConfig,
    LowRankCorrelationConfig,
    OrthogonalizationConfig,
    SyntheticModel,
    SyntheticModelConfig,
    ZipfianFiringProbabilityConfig,
)
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize

from itda_lightning.machine.atomic_files import write_file
from itda_lightning.machine.checks import check_at_least, check_choice
from itda_lightning.machine.made_once import hash_of, made_once

PART = 8192  # samples in a file
DRAWN = 2048  # samples drawn at a time: SAELens needs about 50 bytes per sample and feature
SPLITS = ("train", "heldout")


@dataclass(frozen=True)
class Size:
    """The size of a world and of the dictionaries that are made for it.

    Attributes:
        features, width: number of features, and of dimensions.
        roots: trees of the hierarchy, of 85 features each.
        atoms, k: width and sparsity of dictionaries and SAEs.
    """

    features: int
    width: int
    roots: int
    atoms: int
    k: int


SIZES = {
    "16k": Size(16_384, 768, 128, 4096, 25),  # as published, with seed 42
    "small": Size(4096, 192, 32, 1024, 12),
    "tiny": Size(256, 16, 2, 32, 4),  # for tests
}


def recipe(size: Size, seed: int) -> SyntheticModelConfig:
    """Return the published recipe at a size."""
    return SyntheticModelConfig(
        num_features=size.features,
        hidden_dim=size.width,
        firing_probability=ZipfianFiringProbabilityConfig(exponent=0.5, max_prob=0.4, min_prob=5e-4),
        hierarchy=HierarchyConfig(
            total_root_nodes=size.roots,
            branching_factor=4,
            max_depth=3,
            mutually_exclusive_portion=1.0,
            mutually_exclusive_min_depth=0,
            compensate_probabilities=True,
            scale_children_by_parent=True,
        ),
        orthogonalization=OrthogonalizationConfig(num_steps=100, lr=3e-4),
        correlation=LowRankCorrelationConfig(rank=25, correlation_scale=0.1),
        mean_firing_magnitudes=LinearMagnitudeConfig(start=5.0, end=4.0),
        std_firing_magnitudes=FoldedNormalMagnitudeConfig(mean=0.5, std=0.5),
        bias=0.5,
        seed=seed,
    )


@torch.no_grad()
def orthogonalise(features: Float[Tensor, "n d"], steps: int, rate: float) -> Float[Tensor, "n d"]:
    """Do what ``sae_lens.synthetic.orthogonalize_embeddings`` does, without its (n, n) matrices.

    Its loss is the sum of the squared inner products of different rows, and n times that of ``(|e|^2 - 1)^2``. The
    gradient ``4 (E E^T E - |e|^2 e) + 4 n (|e|^2 - 1) e`` needs none if E^T E comes first.
    """
    rows = normalize(features, dim=1).requires_grad_()
    optimizer = torch.optim.Adam([rows], lr=rate)
    for _ in range(steps):
        energy = rows.square().sum(1, keepdim=True)
        rows.grad = 4 * (rows @ (rows.T @ rows) - energy * rows) + 4 * len(rows) * (energy - 1) * rows
        optimizer.step()
    return normalize(rows.detach(), dim=1)


class World:
    """A world and its samples on disk.

    Args:
        name: of its size, as in SIZES.
        seed: of its features and samples.
        cache_dir: where worlds are kept.

    Raises:
        InputError: an unknown name, or a directory that cannot be written.
    """

    def __init__(self, name: str, seed: int, cache_dir: str | Path) -> None:
        check_choice(tuple(SIZES), {"world": name})
        self.name, self.seed, self.size = name, seed, SIZES[name]
        config = recipe(self.size, seed)
        self.identity = hash_of({"recipe": config.to_dict(), "sae-lens": sae_lens.__version__, "part": PART})
        self.directory = Path(cache_dir).expanduser() / self.identity
        place = made_once(self.directory / "model", lambda directory: _make(config).save(directory))
        self.model = SyntheticModel.load_from_disk(place)

    @property
    def features(self) -> Float[Tensor, "n d"]:
        return self.model.feature_dict.feature_vectors.detach()

    def make(self, split: str, count: int) -> None:
        """Draw the parts of the first ``count`` samples of a split that are not there yet."""
        check_choice(SPLITS, {"split": split})
        check_at_least(1, {"samples": count})
        for number in range(-(-count // PART)):
            path = self.directory / f"{split}-{number:05d}.safetensors"
            if not path.exists():
                write_file(path, partial(save_file, self._draw(split, number)))

    def fired(self, split: str, count: int) -> Iterator[Float[Tensor, "batch n"]]:
        """Yield the strengths of all features, sparse, in the first ``count`` samples, up to 8,192 at a time."""
        self.make(split, count)
        for start in range(0, count, PART):
            part = load_file(self.directory / f"{split}-{start // PART:05d}.safetensors")
            rows = min(PART, count - start)
            last = int(part["ends"][rows - 1])
            sample = torch.repeat_interleave(part["ends"].diff(prepend=torch.zeros(1, dtype=torch.int64)))[:last]
            places = torch.stack([sample, part["feature"][:last].long()])
            strengths, shape = part["strength"][:last], (rows, self.size.features)
            yield torch.sparse_coo_tensor(places, strengths, shape, is_coalesced=True, check_invariants=True)

    def activations(self, split: str, count: int) -> Iterator[Float[Tensor, "batch d"]]:
        """Yield the activations of the same samples."""
        return (self.model.feature_dict(fired).detach() for fired in self.fired(split, count))

    def training(self, count: int) -> Float[Tensor, "count d"]:
        """Return the first training activations in one tensor."""
        return torch.cat(list(self.activations("train", count)))

    def firing_rates(self, count: int) -> Float[Tensor, " n"]:
        """Return the share of training samples in which each feature fires."""
        counts = torch.zeros(self.size.features)
        for fired in self.fired("train", count):
            counts += torch.bincount(fired.indices()[1], minlength=self.size.features)
        return counts / count

    def _draw(self, split: str, number: int) -> dict[str, Tensor]:
        parts = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed((self.seed << 32) + (SPLITS.index(split) << 31) + number)
            for _ in range(PART // DRAWN):
                parts.append(self.model.activation_generator.sample(DRAWN).to_sparse())
        fired = torch.cat(parts).coalesce()
        ends = torch.bincount(fired.indices()[0], minlength=PART).cumsum(0)
        return {"ends": ends, "feature": fired.indices()[1].int(), "strength": fired.values()}


def _make(config: SyntheticModelConfig) -> SyntheticModel:
    """Make the world; its features are orthogonalised here, in a fraction of SAELens's time."""
    steps = config.orthogonalization
    assert steps is not None
    config.orthogonalization = None
    model = SyntheticModel(config)
    config.orthogonalization = steps
    features = model.feature_dict.feature_vectors
    features.data = orthogonalise(features.data, steps.num_steps, steps.lr)
    return model
