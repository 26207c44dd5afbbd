"""Adapters (LoRA and others): refused, since a model is loaded without them, whatever files lie beside its weights."""

import json
from pathlib import Path

from transformers.utils.peft_utils import find_adapter_config_file

from itda_lightning.errors import InputError

CONFIG, WEIGHTS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")


def check_no_adapter(path: Path | str, revision: str | None = None) -> None:
    """Raise InputError if a model directory, or a repository of the hub, holds an adapter."""
    directory = Path(path)
    if directory.is_dir():
        found = [directory / name for name in (CONFIG, *WEIGHTS) if (directory / name).exists()]
        config = directory / CONFIG
    else:
        try:
            at_hub = find_adapter_config_file(str(path), revision=revision)
        except Exception:  # the hub client raises a dozen types; loading the model says what is wrong
            return
        config = Path(at_hub) if at_hub is not None else directory
        found = [config] if at_hub is not None else []
    if found:
        raise InputError(
            f"{path} holds an adapter ({found[0].name}), without which its model would be loaded: merge it into "
            f"{_base(config)} first (peft: model.merge_and_unload().save_pretrained(...)) and give that directory, or "
            "remove the adapter's files to use the model without it"
        )


def _base(config: Path) -> str:
    """Return the name of the model that an adapter is of, as far as its configuration tells it."""
    try:
        named = json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        named = None
    return repr(named) if isinstance(named, str) and named else "its base model"
