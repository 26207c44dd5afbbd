"""SAELens's evals on held-out documents, with position 0 masked and a fresh store each time, and their JSON file."""

import logging
import math
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE
from sae_lens.evals import EvalConfig, run_evals
from sae_lens.training.activation_scaler import ActivationScaler
from torch import Tensor

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.harvesting import RowActivations
from itda_lightning.activations.models.language_model import LanguageModel
from itda_lightning.activations.store import make_store
from itda_lightning.activations.text.rows import Rows
from itda_lightning.activations.text.tokenizer import Tokenizer, special_ids, special_tokens
from itda_lightning.errors import InputError
from itda_lightning.evaluation.earlier_passes import KeptPredictions, ReadRows
from itda_lightning.evaluation.entries import Entry
from itda_lightning.machine.checks import check_at_least
from itda_lightning.machine.digests import read_signed_json
from itda_lightning.machine.paths import without_home
from itda_lightning.machine.schema import check_schema
from itda_lightning.machine.versions import versions_and_hardware

logger = logging.getLogger(__name__)

EVALUATION = "evaluation.json"
REMEDY = "evaluate the run again or remove it"
# The metrics in the order shown; others of SAELens follow. Its `explained_variance_legacy` is left out: it is a mean of
# ratios with the variance of one batch, so it depends on the batch size.
ORDER = (
    "ce_loss_without_sae",
    "ce_loss_with_sae",
    "ce_loss_with_ablation",
    "ce_loss_score",
    "kl_div_with_sae",
    "kl_div_with_ablation",
    "kl_div_score",
    "explained_variance",
    "fvu",
    "mse",
    "cossim",
    "l0",
)


def rows_for_evals(rows: Rows, tokenizer: Tokenizer) -> Rows:
    """Return the rows with a special token at position 0.

    SAELens masks tokens by their id, not by their position; a special token is masked, and with it the massive
    activation of the first position. Rows that already begin with a special token are returned unchanged.

    Raises:
        InputError: a tokenizer without BOS and EOS.
    """
    if bool(torch.isin(rows.tokens[:, 0], torch.tensor(special_ids(tokenizer), dtype=torch.int64)).all()):
        return rows
    bos = special_tokens(tokenizer).bos
    logger.warning(
        "rows do not begin with BOS: for the evals their first token is replaced by it, so that it is masked"
    )
    selected = rows.select(torch.arange(len(rows)))
    selected.tokens[:, 0] = bos
    return selected


def check_site(sae: SAE[Any], language_model: LanguageModel, hook_name: str) -> None:
    """Raise InputError if the language model was not loaded for the hook point or has another width there."""
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


def evaluate_sae(
    sae: SAE[Any],
    language_model: LanguageModel,
    rows: Rows,
    model_batch_size: int = 4,
    progress: bool = True,
    loss_rows: int | None = None,
    activations: Iterable[RowActivations] | None = None,
    model: Any = None,
) -> tuple[dict[str, float | int], dict[str, list[float]]]:
    """Run SAELens's ``run_evals``: losses and KL on some rows, sparsity and variance over all of them.

    Args:
        sae: any SAELens SAE whose hook point is among those of the language model.
        rows: the rows to evaluate on; see ``rows_for_evals``.
        model_batch_size: largest number of rows per forward pass. The largest divisor of the number of rows is used, so
            that each row counts once. With a large vocabulary small batches are as fast and take far less memory.
        loss_rows: number of rows, from the first, to measure losses and KL on, which takes three passes through the
            whole model; None for all.
        activations: of all rows, in their order, as a harvest gives them, for sparsity and variance; None for another
            pass of the model, up to the hook point.
        model: what takes the place of the language model in losses, such as ``KeptPredictions`` of it.

    Returns:
        Finite metrics under SAELens's names, with ``fvu = 1 - explained_variance``, ``tokens_evaluated`` and
        ``loss_tokens_evaluated``; and lists with one number per atom (``feature_density``, ...).

    Raises:
        InputError: an SAE of another width or hook point, or with an activation normalisation that must be folded; no
            rows, or a batch size or number of rows below 1; activations that are not finite.
    """
    check_site(sae, language_model, sae.cfg.metadata.hook_name)
    if sae.cfg.normalize_activations == "expected_average_only_in":
        raise InputError(
            "the SAE expects scaled activations: fold the scaling with fold_activation_norm_scaling_factor"
        )
    n_loss_rows = len(rows) if loss_rows is None else min(loss_rows, len(rows))
    check_at_least(1, {"model_batch_size": model_batch_size, "rows": n_loss_rows})
    metrics: dict[str, float] = {}
    per_atom: dict[str, list[float]] = {}
    of_all = (
        "compute_l2_norms",
        "compute_sparsity_metrics",
        "compute_variance_metrics",
        "compute_featurewise_density_statistics",
    )
    read = None if activations is None else ReadRows(rows, sae.cfg.metadata.hook_name, activations)
    parts = (n_loss_rows, ("compute_kl", "compute_ce_loss"), None), (len(rows), of_all, read)
    for n_rows, computed, known in parts:
        batch = max(size for size in range(1, min(model_batch_size, n_rows) + 1) if n_rows % size == 0)
        config = EvalConfig(
            batch_size_prompts=batch,
            n_eval_reconstruction_batches=n_rows // batch,
            n_eval_sparsity_variance_batches=n_rows // batch,
            **dict.fromkeys(computed, True),
        )
        with warnings.catch_warnings(), _finite_inputs(sae):
            warnings.filterwarnings("ignore", message="To copy construct from a tensor")
            groups, lists = run_evals(
                sae,
                make_store(language_model, rows, 0, batch) if known is None else known,
                (model or language_model.model) if known is None else known,
                ActivationScaler(),
                config,
                exclude_special_tokens=special_ids(language_model.tokenizer),
                verbose=progress,
            )
        for group, values in groups.items():
            metrics |= {} if group == "token_stats" else values
        per_atom |= lists
    metrics["fvu"] = 1.0 - metrics["explained_variance"]
    ordered = {key: metrics[key] for key in (*ORDER, *metrics) if key in metrics and key != "explained_variance_legacy"}
    tokens = {
        "tokens_evaluated": len(rows) * rows.context_size,
        "loss_tokens_evaluated": n_loss_rows * rows.context_size,
    }
    finite = {key: float(value) for key, value in ordered.items() if math.isfinite(float(value))}
    return {**finite, **tokens}, per_atom


def evaluate_entries(
    entries: Sequence[Entry], data: ActivationsDataModule, loss_tokens: int, model_batch_size: int
) -> Iterator[tuple[Entry, dict[str, float | int], float]]:
    """Evaluate one or several entries of one model; yield each with its metrics and the seconds that it took.

    Held-out activations are those that the fit read, from its cache, and the model's own predictions are computed once
    for all entries if memory can keep them. Raises as ``evaluate_sae``, before anything is measured.
    """
    rows, language_model = data.rows("heldout"), data.language_model
    for entry in entries:
        check_site(entry.sae, language_model, entry.hook_name)
    evaluated = rows_for_evals(rows, data.tokenizer)
    model = KeptPredictions(language_model.model) if len(entries) > 1 else language_model.model
    for entry in entries:
        start = time.perf_counter()
        entry.sae.to(data.model_name.torch_device())
        metrics, _ = evaluate_sae(
            entry.sae,
            language_model,
            evaluated,
            model_batch_size,
            loss_rows=loss_tokens // rows.context_size,
            # With another token at position 0 all activations are others.
            activations=data.val_dataloader().read_from(0) if evaluated is rows else None,
            model=model,
        )
        yield entry, metrics, time.perf_counter() - start


@contextmanager
def _finite_inputs(sae: SAE[Any]) -> Iterator[None]:
    """Refuse activations that are not finite within this block: no score of these evals leaves them out."""

    def check(_module: object, _args: object, x: Tensor) -> None:
        bad = ~torch.isfinite(x).all(-1)
        if bad.any():
            raise InputError(
                f"{int(bad.sum())} of {bad.numel()} held-out activations at {sae.cfg.metadata.hook_name} are not "
                "finite, which SAELens's evals cannot leave out: use model_dtype=float32"
            )

    handle = sae.hook_sae_input.register_forward_hook(check)
    try:
        yield
    finally:
        handle.remove()


def evaluation_content(
    entry: Entry, data: ActivationsDataModule, metrics: dict[str, float | int], seconds: float
) -> dict[str, Any]:
    """Return the content of the file of an evaluation, which took so many seconds."""
    rows = data.rows("heldout")
    return {
        "dictionary": without_home(entry.name),
        "architecture": entry.sae.cfg.architecture(),
        "hook_name": entry.hook_name,
        "model": data.model_name.name,
        "model_fingerprint": data.model_name.fingerprint(),
        "dataset": {"name": data.hparams["dataset"], "fingerprint": rows.dataset, "rows": rows.fingerprint()},
        "metrics": metrics,
        "seconds": seconds,
        "versions": versions_and_hardware(),
    }


def read_metrics(path: Path) -> dict[str, float]:
    """Return the metrics of an evaluation, none if the file does not exist. Raises InputError for a damaged file."""
    if not path.exists():
        return {}
    try:
        metrics = read_signed_json(path, REMEDY)["metrics"]
        return dict(check_schema(metrics, dict[str, float | int], "its metrics", REMEDY))
    except (ValueError, KeyError) as error:
        raise InputError(f"{path} is not what evaluate writes ({type(error).__name__}: {error}): {REMEDY}") from error
