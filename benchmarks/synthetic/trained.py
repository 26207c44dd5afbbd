"""SAEs that SAELens trains on a world's activations, with its own trainer, and controls whose decoders are held."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from sae_lens import SAE
from sae_lens.registry import get_sae_training_class
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

from benchmarks.synthetic.worlds import World
from itda_lightning.machine.made_once import hash_of, made_once
from itda_lightning.saelens.held_decoder import HeldDecoder
from itda_lightning.saelens.training_configs import trainer_config
from itda_lightning.saelens.training_settings import TrainedArchitecture, TrainingSettings

# A world's features are drawn with its seed: an SAE that begins with the same random numbers begins at the truth.
APART = 2**20


@dataclass(frozen=True)
class Training:
    """A training.

    Attributes:
        architecture: SAELens's name.
        k: the sparsity, None for that of the world's size.
        passes: over the samples.
        held: the least cosine of a latent's direction with its random start, 1 for a frozen decoder (arXiv 2602.14111);
            None for a free one.
        rate, batch_size: of Adam; the rate falls to 0 in the last fifth. SAELens's own rate and batches leave an SAE
            unfinished after so few samples.
    """

    architecture: TrainedArchitecture
    k: int | None = None
    passes: int = 1
    held: float | None = None
    rate: float = 3e-3
    batch_size: int = 512


def sae_of(world: World, training: Training, samples: int, seed: int) -> SAE[Any]:
    """Train an SAE on the first training samples, or read it if it was trained before.

    Its metadata holds the ``seconds`` that it took, reading of samples included and their making not.
    """
    seed += APART
    identity = hash_of(asdict(training) | {"samples": samples, "seed": seed})

    def make(directory: Path) -> None:
        world.make("train", samples)
        _train(world, training, samples, seed).save_inference_model(directory)

    return SAE.load_from_disk(made_once(world.directory / "saes" / identity, make))


def _train(world: World, training: Training, samples: int, seed: int) -> Any:
    """Train as the package does for its comparisons: scaled activations, a decoder bias that starts at the mean."""
    start = time.perf_counter()
    size, seen = world.size, samples * training.passes
    k = training.k or size.k
    shared: dict[str, Any] = {"learning_rate": training.rate, "batch_size": training.batch_size, "seed": seed}
    settings = TrainingSettings(training.architecture, size.atoms, k=k, samples=seen, **shared)
    sae_class, config_class = get_sae_training_class(training.architecture)
    config = config_class(
        d_in=size.width,
        d_sae=size.atoms,
        normalize_activations="expected_average_only_in",
        **settings.sparsity_options(),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sae = sae_class(config)
    trainer: SAETrainer[Any, Any] = SAETrainer(trainer_config(settings, torch.device("cpu")), sae, iter(()))
    sample = next(world.activations("train", samples))
    scale = size.width**0.5 / float(sample.norm(dim=1).mean())
    trainer.activation_scaler.scaling_factor = scale
    sae.b_dec.data.copy_(sample.mean(0) * scale)
    decoder = None if training.held is None else HeldDecoder(sae, seed, training.held)
    for x in islice(_batches(world, training, samples, seed), settings.steps):
        trainer.maybe_reset_sparsity()
        trainer.step(x)
        trainer.n_training_steps += 1
        if decoder is not None:
            decoder.hold()
    sae.fold_activation_norm_scaling_factor(scale)
    trainer.set_final_sae_metadata()
    sae.cfg.metadata["seconds"] = time.perf_counter() - start
    return sae


def _batches(world: World, training: Training, samples: int, seed: int) -> Iterator[Float[Tensor, "batch d"]]:
    """Yield the samples pass by pass; they are independent draws, so it is enough to shuffle within parts."""
    for number in range(training.passes):
        generator = torch.Generator().manual_seed((seed << 16) + number)
        for part in world.activations("train", samples):
            yield from part[torch.randperm(len(part), generator=generator)].split(training.batch_size)
