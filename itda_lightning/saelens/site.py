"""What SAELens's tools read about where an SAE belongs: model, hook point, documents, rows."""

from copy import deepcopy
from typing import Any

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.dictionary.facts import MODEL_CLASSES, settings
from itda_lightning.saelens.convert import EXPECTED_METADATA


def site_metadata(data: ActivationsDataModule, hook_name: str) -> dict[str, Any]:
    """SAELens's metadata of an SAE of activations of ``data``, whose settings stand beside them under ``data``."""
    own = settings(data.hparams)
    known = {
        "model_name": own["model"],
        "model_class_name": MODEL_CLASSES[own["loader"]],
        "hook_name": hook_name,
        "dataset_path": own["dataset"],
        **{name: own[name] for name in ("context_size", "prepend_bos", "exclude_special_tokens")},
    }
    return deepcopy(EXPECTED_METADATA) | known | {"data": own}
