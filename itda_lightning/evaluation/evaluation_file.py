"""The JSON file of an evaluation: what was evaluated on what, and the metrics."""

import json
from pathlib import Path
from typing import Any

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.errors import InputError
from itda_lightning.evaluation.entries import Entry
from itda_lightning.machine.versions import versions_and_hardware

EVALUATION = "evaluation.json"


def evaluation_content(
    entry: Entry, data: ActivationsDataModule, metrics: dict[str, float | int], seconds: float
) -> dict[str, Any]:
    """Return the content of the file.

    Args:
        entry: the ITDA or SAE.
        data: gave the held-out documents.
        metrics: of ``evaluate_sae``.
        seconds: the time that evaluating took.
    """
    rows = data.rows("heldout")
    return {
        "dictionary": entry.name,
        "architecture": entry.sae.cfg.architecture(),
        "hook_name": entry.sae.cfg.metadata.hook_name,
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
        metrics = json.loads(path.read_text(encoding="utf-8"))["metrics"]
        return {str(name): value for name, value in metrics.items() if isinstance(value, (int, float))}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is not what evaluate writes ({type(error).__name__}: {error}): evaluate the run again or remove it"
        ) from error
