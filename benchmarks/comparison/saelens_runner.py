"""Train an SAE as a user of SAELens does: its own runner reads the model and trains on the way, with no cache."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sae_lens import LanguageModelSAERunnerConfig, LanguageModelSAETrainingRunner
from sae_lens.config import LoggingConfig

from itda_lightning.activations.bundled import resolve
from itda_lightning.activations.models.language_model import LanguageModel
from itda_lightning.activations.models.model_name import LanguageModelName
from itda_lightning.saelens.training_configs import sae_config, trainer_config
from itda_lightning.saelens.training_settings import TrainingSettings

# Batches that tell the scale of the activations; SAELens's default of 1,000 would read more than the training does.
BATCHES_OF_SCALE = 8
MEASURED_BATCHES = 4


def runner_seconds(
    settings: TrainingSettings, model: str, hook_name: str, dataset: str, directory: Path
) -> dict[str, float]:
    """Train by SAELens's runner; return the seconds, and on later batches mean L0 and explained variance.

    Its buffer (20 batches of 32 rows of 128 tokens), mixing and tokenisation are its defaults. As for the others, the
    seconds begin when the model is loaded.
    """
    loaded = LanguageModel(LanguageModelName(model), [hook_name])
    lines = Path(resolve(dataset)).read_text(encoding="utf-8").splitlines()
    texts = Dataset.from_list([{"text": json.loads(line)["text"]} for line in lines])
    device, steps = torch.device("cpu"), asdict(trainer_config(settings, torch.device("cpu")))
    config: LanguageModelSAERunnerConfig[Any] = LanguageModelSAERunnerConfig(
        sae=sae_config(settings, loaded.widths[hook_name], hook_name, {}, device),
        model_name=model,
        hook_name=hook_name,
        dataset_path=dataset,
        streaming=False,
        is_dataset_tokenized=False,
        context_size=128,
        seqpos_slice=(1, None),
        exclude_special_tokens=True,
        training_tokens=steps["total_training_samples"],
        train_batch_size_tokens=settings.batch_size,
        n_batches_for_norm_estimate=BATCHES_OF_SCALE,
        **{name: steps[name] for name in ("lr", "lr_end", "lr_warm_up_steps", "lr_decay_steps", "dead_feature_window")},
        seed=settings.seed,
        logger=LoggingConfig(log_to_wandb=False),
        checkpoint_path=None,
        output_path=str(directory / "sae"),
        verbose=False,
    )
    start = time.perf_counter()
    runner = LanguageModelSAETrainingRunner(config, override_dataset=texts, override_model=loaded.model)
    sae = runner.run()
    seconds = time.perf_counter() - start
    x = torch.cat([next(runner.activations_store) for _ in range(MEASURED_BATCHES)])
    with torch.no_grad():
        code = sae.encode(x)
        left = (sae.decode(code) - x).double().square().sum() / (x - x.mean(0)).double().square().sum()
    return {"all": seconds, "l0": float((code != 0).sum(1).double().mean()), "explained_variance": 1 - float(left)}
