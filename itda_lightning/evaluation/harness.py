"""SAELens's evals on held-out documents, with position 0 masked and a fresh store each time."""

import logging
import math
from typing import Any

import torch
from sae_lens import SAE
from sae_lens.evals import EvalConfig, run_evals
from sae_lens.training.activation_scaler import ActivationScaler

from itda_lightning.activations.harvest import make_store
from itda_lightning.activations.language_model import LanguageModel
from itda_lightning.activations.rows import Rows, Tokenizer
from itda_lightning.errors import InputError

logger = logging.getLogger(__name__)


def rows_for_evals(rows: Rows, tokenizer: Tokenizer) -> Rows:
    """The rows with a special token at position 0.

    SAELens masks tokens by their id, not by their place; a special token is masked, and with it the massive activation
    of the first position. Rows that begin with BOS already are returned as they are.
    """
    special = torch.tensor(sorted(tokenizer.all_special_ids))
    if bool(torch.isin(rows.tokens[:, 0], special).all()):
        return rows
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if bos is None:
        raise InputError("the tokenizer has neither BOS nor EOS, so position 0 cannot be masked in SAELens's evals")
    logger.warning(
        "rows do not begin with BOS: for the evals their first token is replaced by it, so that it is masked"
    )
    selected = rows.select(torch.arange(len(rows)))
    selected.tokens[:, 0] = bos
    return selected


def evaluate_sae(
    sae: SAE[Any], language_model: LanguageModel, rows: Rows, model_batch_size: int = 16, progress: bool = True
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """SAELens's ``run_evals`` over all rows: loss and KL in one pass, sparsity and variance in another.

    Args:
        sae: any SAELens SAE whose hook point is among those of the language model.
        rows: what to evaluate on; see ``rows_for_evals``.

    Returns:
        Metrics under SAELens's names (``ce_loss_score``, ``ce_loss_with_sae``, ``ce_loss_without_sae``,
        ``ce_loss_with_ablation``, ``kl_div_score``, ..., ``l0``, ``explained_variance``, ``cossim``, ``l2_ratio``), with
        ``fvu = 1 - explained_variance``, and per-atom lists (``feature_density``, ...).

    Raises:
        InputError: an SAE of another width or hook point, or with an activation normalisation that must be folded.
    """
    hook_name = sae.cfg.metadata.hook_name
    if hook_name not in language_model.widths:
        raise InputError(
            f"the SAE reads hook point {hook_name!r}, the language model was loaded for {sorted(language_model.widths)}"
        )
    width = language_model.widths[hook_name]
    if sae.cfg.d_in != width:
        raise InputError(
            f"the SAE has d_in {sae.cfg.d_in} but {hook_name} of {language_model.name.name} has {width} dimensions: "
            "it was made for another model"
        )
    if sae.cfg.normalize_activations == "expected_average_only_in":
        raise InputError(
            "the SAE expects scaled activations: fold the scaling with fold_activation_norm_scaling_factor"
        )
    batch = min(model_batch_size, len(rows))
    n_batches = len(rows) // batch
    reconstruction = EvalConfig(
        batch_size_prompts=batch, n_eval_reconstruction_batches=n_batches, compute_kl=True, compute_ce_loss=True
    )
    sparsity = EvalConfig(
        batch_size_prompts=batch,
        n_eval_sparsity_variance_batches=n_batches,
        compute_l2_norms=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
        compute_featurewise_density_statistics=True,
    )
    metrics: dict[str, float] = {}
    per_atom: dict[str, list[float]] = {}
    for config in (reconstruction, sparsity):
        store = make_store(language_model, rows, 0, batch)
        groups, per_atom_part = run_evals(
            sae, store, language_model.model, ActivationScaler(), config, verbose=progress
        )
        for group, values in groups.items():
            metrics |= {} if group == "token_stats" else values
        per_atom |= per_atom_part
    metrics["fvu"] = 1.0 - metrics["explained_variance"]
    metrics["tokens_evaluated"] = n_batches * batch * rows.context_size
    return {key: float(value) for key, value in metrics.items() if math.isfinite(float(value))}, per_atom
