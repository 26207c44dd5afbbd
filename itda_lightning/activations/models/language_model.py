"""Load language models by name or directory, find their hook points, and tell one model from another."""

import contextlib
import hashlib
import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import xxhash
from huggingface_hub import hf_hub_download
from humanize import naturalsize
from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge
from sae_lens.load_model import HookedProxyLM, load_model
from transformer_lens.loading_from_pretrained import get_official_model_name
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from itda_lightning.activations.bundled import cache_directory, resolve
from itda_lightning.activations.models.adapters import check_no_adapter
from itda_lightning.activations.models.foreign_code import no_foreign_code
from itda_lightning.activations.models.hook_points import first_line, no_such_hook_point, widths_of
from itda_lightning.activations.models.own_activations import OwnModel
from itda_lightning.activations.models.quantised import quantizer_of
from itda_lightning.activations.models.trial_run import n_embeddings
from itda_lightning.errors import InputError
from itda_lightning.machine.atomic_files import write_json
from itda_lightning.machine.bundled_names import described
from itda_lightning.machine.checks import check_choice
from itda_lightning.machine.digests import read_signed_json
from itda_lightning.machine.memory import TOO_LITTLE_MEMORY, is_out_of_memory
from itda_lightning.machine.paths import is_directory, is_meant_as_path, user_path

logger = logging.getLogger(__name__)

Loader = Literal["bridge", "hooked_transformer", "huggingface"]
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
        if self.device in ("auto", BALANCED):
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
        except RuntimeError as error:
            raise InputError(f"{self.device!r} is not a device: give auto, cpu, cuda, cuda:N or {BALANCED}") from error
        if device.type == "cuda" and not (
            torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
        ):
            raise InputError(
                f"the device {self.device} was asked for but {torch.cuda.device_count()} CUDA devices are available: "
                "use device=auto or device=cpu"
            )
        return device

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
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                return get_official_model_name(path)
        except ValueError:
            return path

    def load_tokenizer(self) -> Any:
        """Load the model's tokenizer. Raises InputError if that fails."""
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

    def load(self, hook_names: list[str], own: OwnModel) -> Any:
        """Load the model. Raises anything, of the libraries that load it."""
        return _load(self, self.torch_device(), self.torch_dtype(), hook_names, own)


class LanguageModel:
    """A loaded language model with the hook points to read and their widths.

    Attributes:
        model: the ``HookedRootModule`` that SAELens's store and evals take.
        tokenizer: its fast tokenizer.
        widths: hook point -> d_in.
        longest_context: maximal number of tokens that the model reads; None if unknown.
        n_tokens: number of tokens that it has embeddings of.

    Raises:
        InputError: a model that cannot be loaded or run, an unavailable device, an unknown hook point or one that does
            not hold one activation per token, or one where TransformerLens does not give the model's own activations.
    """

    def __init__(self, name: LanguageModelName, hook_names: list[str]) -> None:
        self.name = name
        device = name.torch_device()
        name.torch_dtype()
        own = OwnModel(device, hook_names)
        logger.info("loading the language model %s (%s, %s, %s)", described(name.name), name.loader, name.dtype, device)
        try:
            with no_foreign_code(name.name):
                self.model: Any = name.load(hook_names, own)
        except InputError:
            raise
        except Exception as error:  # loaders raise anything from KeyError to OSError for an unknown name
            if is_out_of_memory(error):
                raise InputError(
                    f"loading the language model {name.name!r} {TOO_LITTLE_MEMORY} ({type(error).__name__}: "
                    f"{first_line(error)})"
                ) from error
            raise InputError(
                f"cannot load the language model {name.name!r} with loader {name.loader!r}: "
                f"{type(error).__name__}: {first_line(error)}; "
                "check the name, the loader and that its files are complete"
            ) from error
        self.tokenizer: Any = self.model.tokenizer
        config = self.model.model.config if name.loader == "huggingface" else self.model.cfg
        limit = "max_position_embeddings" if name.loader == "huggingface" else "n_ctx"
        self.longest_context: int | None = getattr(config, limit, None)
        hf_model = {"huggingface": "model", "bridge": "original_model"}.get(name.loader)
        self.n_tokens: int = self.model.cfg.d_vocab if hf_model is None else n_embeddings(getattr(self.model, hf_model))
        longest = self.longest_context
        self.widths = widths_of(self.model, name.name, name.loader, hook_names, self.n_tokens, longest, own)


def _load(
    name: LanguageModelName, device: torch.device, dtype: torch.dtype, hook_names: list[str], own: OwnModel
) -> Any:
    path, options = name.path_or_hub_name(), dict[str, Any](dtype=dtype)
    plainly: dict[str, Any] = {"revision": name.revision, "trust_remote_code": False}
    if name.loader == "hooked_transformer":
        if is_directory(path):
            raise ValueError("it loads the models that TransformerLens names, no directories: set loader=bridge")
        weights = _weights(path, plainly | options, own)
        revision = {"revision": name.revision} if name.revision else {}
        return load_model("HookedTransformer", path, device, options | revision | weights)
    check_no_adapter(path, name.revision)
    quantizer_of(AutoConfig.from_pretrained(path, **plainly), path, dtype)
    spread = BALANCED if name.device == BALANCED else None
    if name.loader == "huggingface" or name.revision is not None:  # which the bridge ignores
        hf_model: Any = AutoModelForCausalLM.from_pretrained(path, device_map=spread, **plainly, **options)
        options = {"hf_model": hf_model, "tokenizer": AutoTokenizer.from_pretrained(path, **plainly)}
    if name.loader == "huggingface":
        modules = [module for module, _ in hf_model.named_modules() if module]
        for hook_name in hook_names:
            if hook_name not in modules:
                raise no_such_hook_point(name.name, hook_name, modules)
        return HookedProxyLM(hf_model if spread else hf_model.to(device), options["tokenizer"], hook_names=hook_names)
    if "hf_model" in options:
        own.record(options["hf_model"].to(device))
    else:
        options["model_class"] = own
    bridge = SAETransformerBridge.boot_transformers(path, device=device, **options)
    # Without this, the usual hook names (aliases) silently cache nothing.
    bridge.enable_compatibility_mode(disable_warnings=True, no_processing=True)
    return bridge


def _weights(path: str, options: dict[str, Any], own: OwnModel) -> dict[str, Any]:
    """Load and run the model whose weights a ``HookedTransformer`` takes; nothing for one not of `transformers`."""
    try:
        AutoConfig.from_pretrained(path, **options)
    except Exception:  # transformers raises anything; loading the HookedTransformer says what is wrong
        return {}
    hf_model: Any = AutoModelForCausalLM.from_pretrained(path, **options)
    own.record(hf_model)
    return {"hf_model": hf_model}


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
