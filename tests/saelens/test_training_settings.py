import pytest
import torch

from itda_lightning.errors import InputError
from itda_lightning.saelens.training_configs import sae_config, trainer_config
from itda_lightning.saelens.training_settings import TrainingSettings

TOPK = {"architecture": "topk", "n_latents": 64, "k": 4}
STANDARD = {"architecture": "standard", "n_latents": 64, "sparsity_coefficient": 5.0}


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        (TOPK, {"architecture": "gated"}, "must be one of .* got 'gated'"),
        (TOPK, {"n_latents": 0}, "n_latents must be at least 1, got 0"),
        (TOPK, {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        (TOPK, {"samples": 2047}, "training.samples must be at least 2,048, got 2,047: that is one batch"),
        (TOPK, {"learning_rate": 0.0}, r"learning_rate must be positive, got 0\.0"),
        (TOPK, {"learning_rate": float("inf")}, "learning_rate must be positive, got inf"),
        (TOPK, {"warm_up": 1.5}, r"warm_up must lie between 0 and 1, got 1\.5: it is a share"),
        (TOPK, {"decay": -0.1}, r"decay must lie between 0 and 1, got -0\.1: it is a share"),
        (TOPK, {"warm_up": 0.6, "decay": 0.5}, "more than the whole training"),
        (TOPK, {"k": None}, r"topk SAE is set by training\.k"),
        (TOPK, {"k": 65}, "k must lie between 1 and 64, got 65: a code uses at most n_latents"),
        (TOPK, {"sparsity_coefficient": 1.0}, r"topk SAE is set by training\.k, not sparsity_coefficient"),
        (STANDARD, {"sparsity_coefficient": None}, "SAELens's examples take 5"),
        (STANDARD, {"sparsity_coefficient": -1.0}, "must not be negative, got -1"),
        (STANDARD, {"k": 4}, "standard SAE is set by training.sparsity_coefficient, not k"),
        (STANDARD, {"sparsity_warm_up": 2.0}, r"sparsity_warm_up must lie between 0 and 1, got 2\.0: it is a share"),
    ],
)
def test_bad_settings_are_explained(unchecked_types, base, changes, message):
    with pytest.raises(InputError, match=message):
        TrainingSettings(**(base | changes))


def test_samples_are_whole_batches_and_shares_are_steps():
    settings = TrainingSettings(**STANDARD, samples=1050, batch_size=10, warm_up=0.1, decay=0.3)
    trainer = trainer_config(settings, torch.device("cpu"))
    assert settings.steps == trainer.total_training_steps == 105
    assert trainer.total_training_samples == 1050
    assert (trainer.lr_warm_up_steps, trainer.lr_decay_steps) == (10, 32)
    sae = sae_config(settings, 8, "blocks.0.hook_resid_post", {}, torch.device("cpu"))
    assert (sae.l1_coefficient, sae.l1_warm_up_steps) == (5.0, 5)


def test_jumprelu_is_warmed_up_for_as_long_as_it_is_trained():
    settings = TrainingSettings("jumprelu", 64, sparsity_coefficient=2.0, samples=1000, batch_size=10)
    sae = sae_config(settings, 8, "blocks.0.hook_resid_post", {}, torch.device("cpu"))
    assert (sae.l0_coefficient, sae.l0_warm_up_steps, sae.jumprelu_sparsity_loss_mode) == (2.0, 100, "tanh")


def test_matching_pursuit_takes_exactly_k_steps():
    settings = TrainingSettings("matching_pursuit", 64, k=4, samples=1000, batch_size=10)
    sae = sae_config(settings, 8, "blocks.0.attn.hook_z", {}, torch.device("cpu"))
    assert (sae.max_iterations, sae.residual_threshold, sae.stop_on_duplicate_support) == (4, 0.0, False)
    assert sae.reshape_activations == "hook_z"
