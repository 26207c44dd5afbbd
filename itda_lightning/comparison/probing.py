"""Sparse probing by sae-probes: how well a few latents, all of them, or the activation separate two classes of text.

The draws of examples, the choice of latents (largest difference of class means, each latent in units of its mean size)
and the probes (logistic regression whose L2 penalty is chosen on held-out training examples) are those of sae-probes.
Only its model loading, which knows nothing but official names, is not used. Codes are passed on unchanged: sae-probes
handles signs, as it takes magnitudes and counts nonzeros.

Kantamneni et al., "Are Sparse Autoencoders Useful? A Case Study in Sparse Probing", https://arxiv.org/abs/2502.16681
"""

import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sae_lens import SAE
from torch import Tensor
from torch.nn.functional import normalize
from tqdm.auto import tqdm

from itda_lightning.activations.models.language_model import LanguageModel
from itda_lightning.comparison.probe_settings import ProbeSettings
from itda_lightning.comparison.probing_data import (
    ProbeDataset,
    cached_activations,
    hash_of_examples,
    load_datasets,
    sae_probes,
)
from itda_lightning.errors import InputError
from itda_lightning.evaluation.saelens_evals import check_site
from itda_lightning.results.comparison import ByDraw, Estimate
from itda_lightning.results.paired import mean_over_draws
from itda_lightning.saelens.anatomy import decoder_rows

logger = logging.getLogger(__name__)

ENCODED_AT_A_TIME = 1024


def measure_probing(
    sae: SAE[Any], language_model: LanguageModel, hook_name: str, settings: ProbeSettings
) -> dict[str, Estimate]:
    """Measure accuracy and AUC of sparse probes, of a probe on all latents and of a dense one on the activations.

    ``probing/k=K`` for every K of ``settings.ks``, with ``settings.detected`` also ``probing/detected k=K``, and with
    ``settings.references`` ``probing/all`` and ``probing/dense`` are shares of test examples classified correctly, with
    chance at 0.5; AUCs are under ``probing_auc/``. Values are means over draws and datasets. Errors are standard errors
    of these means over the draws, with the datasets held fixed: they apply to these datasets, not to others. All
    entries share draws and examples.

    Raises:
        InputError: sae-probes is not installed; an unknown dataset or one with too few examples; probes of more latents
            than the SAE has; an SAE of another width or hook point than the language model was loaded for.
    """
    check_site(sae, language_model, hook_name)
    if max(settings.ks) > (n_latents := len(decoder_rows(sae))):
        raise InputError(
            f"the SAE has {n_latents} latents, too few for a probe of {max(settings.ks)}: lower the largest of ks"
        )
    datasets = load_datasets(settings)
    examples = sum(len(dataset.texts) for dataset in datasets)
    logger.info("probing on %d datasets, %d examples, %d draws each", len(datasets), examples, settings.seeds)
    activations = cached_activations(language_model, hook_name, datasets, settings)
    scores: dict[str, list[list[tuple[float, float]]]] = {}
    for dataset, dense in zip(tqdm(datasets, desc="Probes", unit=" datasets"), activations, strict=True):
        with torch.inference_mode():
            parts = dense.split(ENCODED_AT_A_TIME)
            codes = torch.cat([sae.encode(part.to(sae.device)).float().cpu() for part in parts])
        reference = dense.flatten(1) if settings.references else None
        found = probe_scores(codes, reference, dataset, settings.ks)
        if settings.detected:
            cosines = detections(sae, dense.flatten(1))
            found |= {
                f"detected {name}": pairs for name, pairs in probe_scores(cosines, None, dataset, settings.ks).items()
            }
        for name, pairs in found.items():
            scores.setdefault(name, []).append(pairs)
    read = hash_of_examples(datasets)
    return {
        f"{measure}/{name}": _estimate([[pair[column] for pair in draws] for draws in by_dataset], read)
        for column, measure in enumerate(("probing", "probing_auc"))
        for name, by_dataset in scores.items()
    }


def detections(sae: SAE[Any], x: Float[Tensor, "examples d"]) -> Float[Tensor, "examples n"]:
    """Return the cosines of ``x - bias`` with the decoder rows, which an ITDA's ``Dictionary.detect`` gives, too."""
    rows, bias = decoder_rows(sae).float().cpu(), sae.b_dec.detach().float().cpu().flatten()
    return normalize(x.float() - bias, dim=1) @ normalize(rows, dim=1).T


def probe_scores(
    codes: Float[Tensor, "examples n"],
    dense: Float[Tensor, "examples d"] | None,
    dataset: ProbeDataset,
    ks: tuple[int, ...],
) -> dict[str, list[tuple[float, float]]]:
    """Train and test every probe on every draw of one dataset; without ``dense`` activations sparse probes only.

    Each name (``k=K``, ``all``, ``dense``) has one (accuracy, AUC) per draw.
    """
    scores: dict[str, list[tuple[float, float]]] = {}
    for seed, (train, test) in enumerate(dataset.draws):
        for name, features in _features(codes, dense, dataset.labels, train, ks):
            scores.setdefault(name, []).append(_probe(features, dataset.labels, train, test, seed))
    return scores


def _estimate(scores: list[list[float]], examples: str) -> Estimate:
    draws = ByDraw(tuple(map(tuple, scores)), examples)
    return replace(mean_over_draws(torch.tensor(scores, dtype=torch.float64)), draws=draws)


def _features(
    codes: Tensor, dense: Tensor | None, labels: np.ndarray, train: np.ndarray, ks: tuple[int, ...]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name of each probe and the features (examples, n) that it sees."""
    selection = sae_probes("run_sae_evals")
    fitted = codes[train]
    best = selection.get_sorted_indices(fitted, torch.from_numpy(labels[train]), selection.mean_act_normalization)
    for k in ks:
        yield f"k={k}", codes[:, best[:k]].numpy()
    if dense is None:
        return
    # A latent that is zero in all training examples gets no weight from a probe with a penalty, and would take time.
    yield "all", codes[:, (fitted != 0).any(dim=0)].numpy()
    yield "dense", dense.numpy()


def _probe(
    features: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int
) -> tuple[float, float]:
    with warnings.catch_warnings():
        # The solver chooses from ten penalties, so one with which it does not converge does no harm.
        warnings.filterwarnings("ignore", message=".*failed to converge")
        probe = sae_probes("utils_training").find_best_reg(
            features[train], labels[train], features[test], labels[test], penalty="l2", seed=seed
        )
    return probe.metrics.test_acc, probe.metrics.test_auc
