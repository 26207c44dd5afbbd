"""Name language models: how they are loaded and where, their tokenizers, and what tells one from another."""

import contextlib
import hashlib
import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from huggingface_hub import hf_hub_download
from humanize import naturalsize

from itda_lightning.activations.bundled import cache_directory, resolve
from itda_lightning.activations.models.adapters import check_no_adapter
from itda_lightning.activations.models.foreign_code import no_foreign_code
from itda_lightning.errors import InputError
from itda_lightning.machine.atomic_files import write_json
from itda_lightning.machine.checks import check_choice
from itda_lightning.machine.choices import Loader
from itda_lightning.machine.devices import device_of
from itda_lightning.machine.digests import read_signed_json
from itda_lightning.machine.paths import is_directory, is_meant_as_path, user_path

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# The device of a model spread over several, in the words of `device_map` of `transformers`.
BALANCED = "balanced"
FINGERPRINTED = {".safetensors", ".bin", ".json"}
# Fingerprints of smaller models are not stored: they are read within seconds.
REMEMBERED_BYTES = 2**30


@dataclass(frozen=True)
class LanguageModelName:
    """The name of a language model and how to load it.

    Attributes:
        name: a hub name, a name that TransformerLens knows, a local directory, or a ``bundled:`` name.
        loader: "bridge" (TransformerLens's TransformerBridge: hook points such as ``blocks.8.hook_resid_post`` on any
            model of `transformers`), "hooked_transformer" (TransformerLens's own implementation) or "huggingface"
            (`AutoModelForCausalLM`: hook points are module names such as ``model.layers.8``).
        revision: branch, tag or commit on the hub; None for the default.
        dtype: dtype of the weights and of the computation; for a checkpoint quantised with bitsandbytes, whose weights
            stay packed, the dtype of its other weights.
        device: "auto" for a GPU if there is one, a torch device, or "balanced" (loader "huggingface" only): layers are
            spread over all GPUs, then the CPU's free memory, then the disk.
    """

    name: str
    loader: Loader = "bridge"
    revision: str | None = None
    dtype: str = "float32"
    device: str = "auto"

    def torch_device(self) -> torch.device:
        """Return the device; for a model spread over several, the first. Raises InputError if it is not available."""
        if self.device == BALANCED and self.loader != "huggingface":
            raise InputError(
                f"device={BALANCED} is for models of `transformers`: set loader=huggingface, got {self.loader}"
            )
        return device_of("auto" if self.device == BALANCED else self.device, f"auto, cpu, cuda, cuda:N or {BALANCED}")

    def torch_dtype(self) -> torch.dtype:
        """Return the dtype. Raises InputError for any but float32, bfloat16 and float16."""
        check_choice(DTYPES, {"model_dtype": self.dtype})
        return DTYPES[self.dtype]

    def path_or_hub_name(self) -> str:
        """Return the directory or hub name that `transformers` loads, for any name that TransformerLens knows.

        Raises InputError for a directory with an adapter.
        """
        path = resolve(self.name)
        if is_directory(path):
            check_no_adapter(user_path(path))
            return str(user_path(path))
        # It takes seconds to import, for which commands that only read their options need not wait.
        from transformer_lens.loading_from_pretrained import get_official_model_name

        try:
            with contextlib.redirect_stdout(io.StringIO()):
                return get_official_model_name(path)
        except ValueError:
            return path

    def load_tokenizer(self) -> Any:
        """Load the model's tokenizer. Raises InputError if that fails."""
        from transformers import AutoTokenizer

        path = self.path_or_hub_name()
        try:
            with no_foreign_code(self.name):
                return AutoTokenizer.from_pretrained(path, revision=self.revision, trust_remote_code=False)
        except InputError:
            raise
        except Exception as error:  # `transformers` raises OSError, ValueError, KeyError and others for a wrong name
            reason = f"cannot load the tokenizer of the language model {self.name!r}"
            if is_directory(path):
                raise InputError(
                    f"{reason}: the directory lacks its files, or they are damaged ({type(error).__name__}: "
                    f"{first_line(error)}): put tokenizer.json and tokenizer_config.json into it, as "
                    "tokenizer.save_pretrained writes them"
                ) from error
            if is_meant_as_path(path):
                raise InputError(f"{reason}: there is no such directory; check the spelling") from error
            raise InputError(
                f"{reason}: it is neither a model directory nor available from the hub ({type(error).__name__}): check "
                "the spelling, the network, or give a directory"
            ) from error

    def fingerprint(self) -> str:
        """Return the commit of a hub model, or a hash of the files of a local one. Raises InputError without them."""
        hub_name = self.path_or_hub_name()
        if is_directory(hub_name):
            return directory_fingerprint(Path(hub_name))
        try:
            config = hf_hub_download(hub_name, "config.json", revision=self.revision)
        except Exception as error:  # the hub client raises a dozen types if a model is not available
            raise InputError(
                f"the language model {self.name!r} is neither a local directory nor available from the hub "
                f"({type(error).__name__}): check the spelling, the network, or give a directory"
            ) from error
        return f"{hub_name}@{Path(config).parent.name}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, empty for none."""
    return str(error).strip().splitlines()[0] if str(error).strip() else ""


def directory_fingerprint(directory: Path) -> str:
    """Return a hash of the names and contents of a model directory's files.

    For a large model it is stored in the cache directory, and valid until a file changes its size, time or inode.
    """
    files = [file for file in sorted(directory.glob("*")) if file.suffix in FINGERPRINTED]
    states = {file.name: [(state := file.stat()).st_size, state.st_mtime_ns, state.st_ino] for file in files}
    size = sum(state[0] for state in states.values())
    name = xxhash.xxh3_64_hexdigest(str(directory.absolute()).encode())
    stored = cache_directory() / "fingerprints" / f"{name}.json"
    if size >= REMEMBERED_BYTES:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            stored.stat()
            known = read_signed_json(stored, "it is computed again")
            if known["files"] == states:
                return str(known["fingerprint"])
        logger.info("reading the %s of %s once to fingerprint the model", naturalsize(size), directory)
    digest = xxhash.xxh3_128()
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
    if size >= REMEMBERED_BYTES:
        write_json(stored, {"files": states, "fingerprint": digest.hexdigest()}, ())
    return digest.hexdigest()
