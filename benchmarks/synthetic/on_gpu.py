"""Train an SAE on a world's samples as they are drawn, on a GPU: tens of millions, which no disk keeps.

    python -m benchmarks.synthetic.on_gpu [--samples 20000000] [--architecture topk]

The world has the recipe of ``worlds.py`` and its seed, but is made on the GPU, so its random numbers are others. Writes
results/gpu_<world>_<architecture>.json.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from sae_lens.registry import get_sae_training_class
from sae_lens.synthetic import SyntheticModel, eval_sae_on_synthetic_data
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

from benchmarks.results import Study, describe
from benchmarks.synthetic.worlds import SIZES, orthogonalise, recipe
from itda_lightning.machine.atomic_files import write_text
from itda_lightning.saelens.training_configs import trainer_config
from itda_lightning.saelens.training_settings import TrainedArchitecture, TrainingSettings

RESULTS = Path(__file__).parent / "results"
DRAWN = 8192  # samples drawn at a time: many small steps, which hardly take longer for more


def make_world(name: str, seed: int, device: str) -> SyntheticModel:
    """Make a world on a device; its features are orthogonalised there."""
    config = recipe(SIZES[name], seed)
    steps = config.orthogonalization
    assert steps is not None
    config.orthogonalization = None
    model = SyntheticModel(config, device=device)
    features = model.feature_dict.feature_vectors
    features.data = orthogonalise(features.data, steps.num_steps, steps.lr)
    return model


def samples_of(model: SyntheticModel, batch_size: int) -> Iterator[Tensor]:
    while True:
        yield from model.sample(DRAWN).detach().split(batch_size)


def main(
    samples: int = 20_000_000,
    architecture: TrainedArchitecture = "topk",
    world: str = "16k",
    seed: int = 42,
    rate: float = 1e-3,
    batch_size: int = 1024,
    heldout: int = 65_536,
    minutes: float = 60.0,
    device: str = "cuda",
    results: Path = RESULTS,
) -> None:
    """Train and score.

    Args:
        samples: that the SAE sees, each once.
        architecture: SAELens's name.
        world, seed: as in ``run.py``.
        rate, batch_size: of Adam; the rate falls to 0 in the last fifth.
        heldout: samples that it is scored on.
        minutes: to train at most: fewer samples, if the first 200 steps are too slow for all; the results say how many.
        device: of all.
        results: where results are.
    """
    start = time.perf_counter()
    model, size = make_world(world, seed, device), SIZES[world]
    made = time.perf_counter() - start
    torch.manual_seed(seed + 1)
    batches = samples_of(model, batch_size)
    sample = torch.cat([next(batches) for _ in range(max(1, 8192 // batch_size))])

    def trainer_of(count: int) -> SAETrainer[Any, Any]:
        shared: dict[str, Any] = {"learning_rate": rate, "batch_size": batch_size, "seed": seed}
        settings = TrainingSettings(architecture, size.atoms, k=size.k, samples=count, **shared)
        sae_class, config_class = get_sae_training_class(architecture)
        config = config_class(
            d_in=size.width,
            d_sae=size.atoms,
            normalize_activations="expected_average_only_in",
            device=device,
            **settings.sparsity_options(),
        )
        trainer: SAETrainer[Any, Any] = SAETrainer(
            trainer_config(settings, torch.device(device)), sae_class(config), iter(())
        )
        trainer.activation_scaler.scaling_factor = scale
        trainer.sae.b_dec.data.copy_(sample.mean(0) * scale)
        return trainer

    def train(trainer: SAETrainer[Any, Any], steps: int) -> float:
        begin = time.perf_counter()
        for _ in range(steps):
            trainer.maybe_reset_sparsity()
            trainer.step(next(batches))
            trainer.n_training_steps += 1
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    scale = size.width**0.5 / float(sample.norm(dim=1).mean())
    warm = min(100, samples // batch_size)
    train(trainer_of(samples), warm)
    per_step = train(trainer_of(samples), warm) / warm
    seen = min(samples, int(minutes * 60 / per_step) * batch_size)
    trainer = trainer_of(seen)
    seconds = train(trainer, seen // batch_size)
    trainer.sae.fold_activation_norm_scaling_factor(scale)
    with torch.no_grad():
        scored = eval_sae_on_synthetic_data(
            trainer.sae, model.feature_dict, model.activation_generator, heldout, batch_size=min(heldout, 2048)
        )
    detection = scored.classification
    study = Study("synthetic/on_gpu", dataset=f"SynthSAEBench {world}", tokens=seen, seed=seed)
    result = describe(study) | {
        "architecture": architecture,
        "rate": rate,
        "batch_size": batch_size,
        "heldout": heldout,
        "f1": detection.f1_score,
        "precision": detection.precision,
        "recall": detection.recall,
        "mcc": scored.mcc,
        "uniqueness": scored.uniqueness,
        "ev": scored.explained_variance,
        "l0": scored.sae_l0,
        "dead": float(scored.dead_latents),
        "seconds": seconds,
        "seconds of the world": made,
        "samples per second": seen / seconds,
    }
    text = json.dumps(result, indent=1)
    write_text(results / f"gpu_{world}_{architecture}.json", text + "\n")
    print(text, flush=True)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
