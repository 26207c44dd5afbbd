"""SAELens's configurations for the settings of a training."""

from typing import Any

import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.registry import get_sae_training_class
from sae_lens.saes.sae import SAEMetadata, TrainingSAEConfig

from itda_lightning.saelens.training_settings import TrainingSettings


def sae_config(
    settings: TrainingSettings, d_in: int, hook_name: str, metadata: dict[str, Any], device: torch.device
) -> TrainingSAEConfig:
    """Return SAELens's configuration of the SAE."""
    config: TrainingSAEConfig = get_sae_training_class(settings.architecture)[1](
        d_in=d_in,
        d_sae=settings.n_latents,
        device=str(device),
        normalize_activations="expected_average_only_in",
        reshape_activations="hook_z" if hook_name.endswith("hook_z") else "none",
        metadata=SAEMetadata(**metadata),
        **settings.sparsity_options(),
    )
    return config


def trainer_config(settings: TrainingSettings, device: torch.device) -> SAETrainerConfig:
    """Return SAELens's configuration of its trainer."""
    return SAETrainerConfig(
        total_training_samples=settings.steps * settings.batch_size,
        train_batch_size_samples=settings.batch_size,
        lr=settings.learning_rate,
        lr_end=settings.learning_rate / 10,  # used by cosine schedules only, but required
        lr_warm_up_steps=round(settings.warm_up * settings.steps),
        lr_decay_steps=round(settings.decay * settings.steps),
        device=str(device),
        # SAELens's window of 1,000 steps would never revive dead latents in a training that is shorter.
        dead_feature_window=max(1, min(1000, settings.steps // 10)),
    )
